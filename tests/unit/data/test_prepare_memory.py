"""Memory does not grow with the input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_MB = 150
PREPARE = """
import sys
from pathlib import Path
from mypt_dist.data.prepare import PrepareSettings, prepare
from mypt_dist.tokenizers import build_tokenizer
build_tokenizer("gpt2")
prepare([sys.argv[1]], Path(sys.argv[2]), PrepareSettings(tokenizer="byte", workers=2))
status = Path("/proc/self/status").read_text()
print(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
"""
MB = 1 << 20


def peak_mb(source, out):
    done = subprocess.run([sys.executable, "-c", PREPARE, source, out], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def large_text(path):
    line = "Some words, 42 numbers; naïve 世界.\n"
    with path.open("w") as file:
        for _ in range(64):
            file.write(line * (MB // len(line.encode())))


def large_lines(path):
    with path.open("w") as file:
        for i in range(30):
            file.write(json.dumps({"text": f"{i} " + "words 😀 " * (2 * MB // 11)}, ensure_ascii=False) + "\n")


def many_bad_lines(path):
    path.write_text("x\n" * (MB // 3) + '{"text": "good"}\n')


def one_endless_line(path):
    with path.open("w") as file:
        file.write('{"text": "ok"}\n')
        for _ in range(64):
            file.write("x" * MB)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize(
    ("name", "write"),
    [("a.txt", large_text), ("a.jsonl", large_lines), ("b.jsonl", many_bad_lines), ("c.jsonl", one_endless_line)],
)
def test_a_large_input_needs_little_memory(tmp_path, name, write):
    write(tmp_path / name)
    assert peak_mb(tmp_path / name, tmp_path / "out") < LIMIT_MB
