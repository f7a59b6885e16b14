"""What `pip install .` gives: the command, the presets, the ranks."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mypt_dist.config.presets import names

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.e2e


def test_the_wheel_works_away_from_the_checkout(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import mypt_dist; assert mypt_dist.__file__.startswith(sys.argv[1]), mypt_dist.__file__\n"
        "from mypt_dist.config.presets import names, find\n"
        "from mypt_dist.tokenizers import build_tokenizer, Gpt2Tokenizer\n"
        "assert Gpt2Tokenizer().decode(Gpt2Tokenizer().encode('hello')) == 'hello'\n"
        "assert find('configs', 'small').is_file()\n"
        "print(*names('configs'), *names('launch'))"
    )
    command = [sys.executable, "-I", "-c", code, str(installed)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == [*names("configs"), *names("launch")]
    entry = next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    assert "mypt = mypt_dist.cli:main" in entry
