"""mypt data fetch, as it is typed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Mypt

pytestmark = pytest.mark.e2e


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("text")
    path = tmp_path / "mine.json"
    local = {"paths": "a.txt", "licence": "CC0", "description": "a text", "est_size_mb": 1.5}
    hidden = {"urls": [["b.zip", "https://example.org/b.zip?key=geheim"]], "weight": 0}
    path.write_text(json.dumps({"sources": {"local": local, "hidden": hidden}}))
    return path


def test_sources_are_listed_with_weights_and_licences(sources: Path, mypt: Mypt) -> None:
    _, out, _ = mypt("data", "fetch", sources, "--list", "--weight", "hidden:0.25")
    assert [line.split() for line in out.splitlines()] == [
        ["source", "weight", "MB", "licence", "what", "it", "is"],
        ["local", "1", "1.5", "CC0", "a", "text"],
        ["hidden", "0.25", "-"],
    ]
    code, out, _ = mypt("data", "fetch", sources, "--list", "--json", "--only", "local")
    assert (code, json.loads(out)[0]["licence"]) == (0, "CC0")


def test_what_was_fetched_is_told(sources: Path, mypt: Mypt) -> None:
    folder = sources.parent / "out"
    code, out, _ = mypt("data", "fetch", sources, "--out", folder)
    assert code == 0
    table = out.splitlines()
    assert table[1:] == [
        "source  weight  downloads  files of text  bytes",
        "local        1          0              1      4",
    ]
    code, out, _ = mypt("data", "fetch", sources, "--out", folder, "--json", "--weight", "local:2")
    assert (code, json.loads(out)["sources"]["local"]["weight"]) == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        ([], "say where to: --out DIR", 2),
        (["--list", "--only", "locl"], "has no source 'locl', did you mean 'local'?", 2),
        (["--list", "--weight", "local"], "--weight is written KEY:W", 2),
        (["--list", "--weight", "local:nan"], "--weight is written KEY:W", 2),
        (["--out", "x", "--allow-host", "http://a/"], "--allow-host: 'http://a/' is not a host", 2),
        (["--out", "x", "--only", "hidden", "--skip-download"], "not downloaded yet:", 3),
    ],
)
def test_a_mistake_is_one_clear_message(
    sources: Path, mypt: Mypt, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str, code: int
) -> None:
    monkeypatch.chdir(sources.parent)
    found, _, error = mypt("data", "fetch", sources, *arguments)
    assert found == code
    assert error.startswith("mypt: ")
    assert said in error
    assert "geheim" not in error
    assert "Traceback" not in error


def test_looking_at_sources_loads_no_torch(sources: Path) -> None:
    code = (
        "import sys; from mypt_dist.cli.app import app; "
        f"app(['data', 'fetch', {str(sources)!r}, '--out', {str(sources.parent / 'out')!r}], standalone_mode=False); "
        "assert not {'torch', 'mlflow', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
