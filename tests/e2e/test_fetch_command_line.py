"""mypt data fetch, as it is typed."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Mypt
from faulty_server import CONTENT, ETAG, Request, serving

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


def test_a_killed_download_leaves_no_file_and_the_next_call_brings_it(tmp_path: Path, mypt: Mypt) -> None:
    def slowly_at_first(request: Request, number: int) -> None:
        if number:
            request.part(CONTENT, ETAG)
        else:
            request.head(200, Content_Length=len(CONTENT), ETag=ETAG)
            request.drip((CONTENT[i : i + 4096] for i in range(0, len(CONTENT), 4096)), 0.2)

    with serving() as server:
        server.behaviours["/a"] = slowly_at_first
        path = tmp_path / "mine.json"
        path.write_text(json.dumps({"sources": {"a": {"urls": [["a.txt", server.url("/a")]]}}}))
        arguments = ["data", "fetch", str(path), "--out", str(tmp_path / "out"), "--allow-host", server.host]
        folder = tmp_path / "out/a/download"
        with subprocess.Popen([sys.executable, "-m", "mypt_dist", *arguments]) as running:
            while not (folder / "a.txt.part").exists() or (folder / "a.txt.part").stat().st_size < 10_000:
                assert running.poll() is None
                time.sleep(0.01)
            running.kill()
        assert not (folder / "a.txt").exists()
        assert not (tmp_path / "mine.lock.json").exists()
        code, _, _ = mypt(*arguments)
    assert code == 0
    assert [entry.name for entry in folder.iterdir()] == ["a.txt"]
    assert (folder / "a.txt").read_bytes() == CONTENT
