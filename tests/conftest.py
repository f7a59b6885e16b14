"""What many tests need: a small real dataset, a tiny run, ranks."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from object_store import ObjectStore

# Two cores, several ranks: threads that wait for each other in every small operation would take all the time.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

# No test asserts a time, and an example takes seconds where somebody else wants the processor.
settings.register_profile("mypt", deadline=None)
settings.load_profile("mypt")

# A shell starts jobs in the background with signals ignored, and whatever tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

WORDS = """the quick brown fox jumps over a lazy dog while seven wizards brew strange potions at night""".split()  # noqa: SIM905

SHARED_MEMORY = Path("/dev/shm")

Launch = Callable[..., subprocess.CompletedProcess[str]]
Mypt = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 80 documents of byte tokens in several small shards, prepared by the real thing."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    prepare_words(tmp_path_factory.mktemp("text"), out, seed=0, documents=80)
    return out


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three small datasets, ``code``, ``de`` and ``en``, and the mixture file that lists them."""
    from mypt_dist.data.manifest import DatasetManifest

    folder = tmp_path_factory.mktemp("mixture")
    sources = []
    for seed, (name, weight) in enumerate({"code": 0.2, "de": 0.5, "en": 0.3}.items(), start=1):
        prepare_words(tmp_path_factory.mktemp(name), folder / name, seed=seed, documents=10 * seed)
        fingerprint = DatasetManifest.read(folder / name).fingerprint
        sources.append({"name": name, "path": name, "weight": weight, "fingerprint": fingerprint})
    content = {"format": "mypt-mixture", "version": 1, "sources": sources}
    (folder / "mixture.json").write_text(json.dumps(content))
    return folder


def prepare_words(text: Path, out: Path, *, seed: int, documents: int) -> None:
    """A dataset of byte tokens in ``out``, from so many documents that are written to ``text``."""
    from mypt_dist.data.prepare import PrepareSettings, prepare

    words = random.Random(seed)
    for number in range(documents):
        (text / f"{number:03}.txt").write_text(" ".join(words.choices(WORDS, k=words.randint(20, 400))))
    prepare([str(text)], out, PrepareSettings(tokenizer="byte", val_fraction=0.1, shard_tokens=30_000))


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: removing folders from a disk takes milliseconds each."""
    place = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


@pytest.fixture
def object_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator["ObjectStore"]:
    """An S3 server that this process and those it starts talk to."""
    from object_store import ObjectStore
    from s3fs import S3FileSystem

    store = ObjectStore(tmp_path / "object-store.log")
    # Clients are kept by their arguments, and an address in the environment is none: they would ask an earlier server.
    S3FileSystem.clear_instance_cache()
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def run_mapping(dataset: Path, tmp_path: Path) -> dict[str, Any]:
    """What stands in the smallest run file that trains."""
    return {
        "name": "test",
        "out": str(tmp_path / "run"),
        "model": {"type": "gpt", "context": 16, "n_layer": 2, "n_head": 2, "n_embd": 32, "dropout": 0.1},
        "data": {"path": str(dataset)},
        "optimizer": {"type": "adamw", "lr": 1e-3},
        "train": {"steps": 6, "batch_size": 8, "log_every": 1, "eval_every": 3, "save_every": 3, "eval_windows": 10},
        "checkpoints": {"keep_last": 9},
        "trackers": [],
    }


@pytest.fixture
def run_file(run_mapping: Mapping[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run_mapping))
    return path


@pytest.fixture
def mypt(capsys: pytest.CaptureFixture[str]) -> Mypt:
    """The command line in this process: ``mypt(argument, …)`` gives exit code, stdout and stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        from mypt_dist.cli import main

        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="session")
def launch() -> Launch:
    """``launch(ranks, "-m", "mypt_dist", …)`` under torchrun, as on a cluster."""
    return start_ranks


def start_ranks(
    ranks: int, *arguments: str, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``arguments`` on every one of ``ranks`` ranks until all have ended."""
    done = subprocess.run(
        launch_command(ranks, *arguments),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, **environment},
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """As `launch`, without a launcher, and without the seconds in which every rank imports what all of them do.

    All ranks must end well, and what they say is one text.
    """
    from lives import ForkServer

    folder, numbers = tmp_path_factory.mktemp("forked"), count()
    with ExitStack() as servers:

        @cache
        def server(*modules: str) -> ForkServer:
            return servers.enter_context(ForkServer(*modules))

        def run(ranks: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
            modules = ("deepspeed",) if "ACCELERATE_USE_DEEPSPEED" in environment else ()
            log = folder / f"{next(numbers)}.log"
            life = server(*modules).run(ranks, list(arguments), log, environment)
            codes = life.wait(600)
            assert set(codes) == {0}, f"{codes}\n{life.said()}"
            return subprocess.CompletedProcess(arguments, 0, life.said(), "")

        yield run


def launch_command(ranks: int, *arguments: str) -> list[str]:
    """The command line that starts ``ranks`` processes on this machine."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return [*torchrun, *arguments]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start ranks come first: a long file that is dealt out last would keep one core waiting."""
    items.sort(key=lambda item: item.get_closest_marker("multiproc") is None)


BEGAN = pytest.StashKey[float]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """When it was."""
    session.config.stash[BEGAN] = time.time()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What became of the faults that were injected, in whichever process."""
    from counted import counted_since

    lines = counted_since(config.stash[BEGAN])
    if lines:
        terminalreporter.section("faults that were injected, and what became of them")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under CI a skipped test is a failed one, unless it says that it wants a GPU: nobody reads the reasons there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") != "true" or reporter is None:
        return
    unexcused = [report for report in reporter.stats.get("skipped", []) if "GPU" not in str(report.longrepr)]
    for report in unexcused:
        reporter.write_line(f"skipped, which is a failure under CI: {report.nodeid}: {report.longrepr}", red=True)
    if unexcused and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
