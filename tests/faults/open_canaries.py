"""A process under an audit hook that opens files as the program does: open_canaries.py FOLDER

Reads (opener, path) pairs from FOLDER/baits.json; writes what became of each, and what the hook saw meanwhile, to
FOLDER/outcomes.json.
"""

import json
import logging
import pickle
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import torch

from mypt_dist.checkpoint import Checkpoint, RunLock, open_checkpoint
from mypt_dist.checkpoint.lock import Lease
from mypt_dist.data.archives import Archive, ExtractionLimits, extract, kind_of
from mypt_dist.data.config import DataConfig
from mypt_dist.data.prepare import PrepareSettings, prepare
from mypt_dist.data.sources import read_sources
from mypt_dist.data.sources.pins import Pins
from mypt_dist.data.verify import verify_dataset
from mypt_dist.errors import MyptError
from mypt_dist.launch.files import read_launch_file
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.run.checkpointing import Checkpointing
from mypt_dist.run.config import RunConfig
from mypt_dist.run.data import open_data
from mypt_dist.run.models import load_for_generation
from mypt_dist.tokenizers.load import read_tokenizer
from mypt_dist.tracking.journal import read_events, read_metrics
from mypt_dist.tracking.mlflow_sender.redone import Redone
from mypt_dist.tracking.mlflow_sender.state import read_state

WATCHED = (
    "pickle.find_class", "marshal.load", "marshal.loads", "exec", "compile", "code.__new__", "ctypes.dlopen",
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn",
    "socket.connect", "socket.getaddrinfo",
)  # fmt: skip
TRUSTED = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]))


class Watch:
    """Notes every event that runs code or reaches out of the process, but for Python importing its own modules."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._is_on = False
        sys.addaudithook(self._heard)

    def on(self) -> None:
        self._is_on, self.seen = True, []

    def off(self) -> None:
        self._is_on = False

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._is_on and event in WATCHED and not _is_an_import(arguments):
            self.seen.append(f"{event} {arguments!r:.200}")


def _is_an_import(arguments: tuple[Any, ...]) -> bool:
    code = arguments[0] if arguments else None
    if isinstance(code, CodeType) and not code.co_filename.startswith(("<frozen", *TRUSTED)):
        return False
    frame = sys._getframe(2)
    while frame.f_back is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


class FakeTrainable:
    """Takes what a checkpoint holds into the tensors of a model, as engines do."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._entries = checkpoint.manifest.tensors

    def load_state(self, read: Callable[..., None]) -> None:
        for name, entry in self._entries.items():
            read(name, entry.shape, 0, torch.empty(entry.shape))

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        if state:
            float(state["scale"]), int(state["steps_since_change"])


class FakeEngine:
    rank = 0
    size = 1


def never() -> Any:
    raise AssertionError("restoring computes no loss")


def _restore(folder: Path) -> object:
    with open_checkpoint(folder) as checkpoint:
        trainable: Any = FakeTrainable(checkpoint)
        engine: Any = FakeEngine()
        store: Any = None
        parts = Checkpointing(store, engine, trainable, {}, {}, lambda _: {}, dict, never)
        return parts.restore(checkpoint)


def _data(folder: Path) -> None:
    data = open_data(DataConfig(path=folder), GPTConfig(context=16, n_layer=1, n_head=1, n_embd=8))
    out = np.empty((1, len(data.train[0])), dtype=np.int64)
    data.train[0].gather(np.zeros(1, dtype=np.int64), out)
    data.train[0].check(out, data.tokenizer.vocab_size)


def _journal(folder: Path) -> object:
    # Lines that are no rows are left out, with a warning: None is left in these files.
    left = [*read_metrics(folder), *read_events(folder)]
    Redone.before(folder, 1 << 40)
    return left or None


def _locked(folder: Path) -> None:
    # A lock that nobody renews is taken over, whatever it says.
    lock = RunLock(folder, Lease(lease_s=0, poll_s=0))
    lock.acquire()
    lock.release()


def _prepared(path: Path) -> object:
    out = path.parent / f"{path.name}.out"
    return prepare([path], out, PrepareSettings(tokenizer="byte", overwrite=True)).manifest.counts.documents


def _unpacked(path: Path) -> None:
    into = path.with_name("unpacked")
    into.mkdir()
    extract([Archive((path,), kind_of(path.name), path.name)], into, ExtractionLimits())


def _verified(folder: Path) -> None:
    problems = verify_dataset(folder)
    if problems:
        raise MyptError("\n".join(problems))


OPENERS: dict[str, Callable[[Path], object]] = {
    "run file": lambda path: RunConfig.load(str(path)),
    "launch file": lambda path: read_launch_file(str(path)),
    "tokenizer": read_tokenizer,
    "dataset": _data,
    "dataset verified": _verified,
    "checkpoint": load_for_generation,
    "resume": _restore,
    "journal": _journal,
    "sender state": read_state,
    "run lock": _locked,
    "text": _prepared,
    "sources file": lambda path: read_sources(str(path)),
    "lock file of sources": Pins,
    "archive": _unpacked,
    "planted pickle": lambda path: pickle.loads(path.read_bytes()),  # noqa: S301 - the twin
}


def outcome(opener: str, path: Path, watch: Watch) -> dict[str, Any]:
    watch.on()
    try:
        value = OPENERS[opener](path)
        result = "left out" if value is None and opener in ("journal", "sender state", "run lock") else "accepted"
        message = ""
    except MyptError as error:
        result, message = "refused", str(error)
    except BaseException:  # noqa: BLE001 - told to the test
        watch.off()
        result, message = "crashed", traceback.format_exc()[-1500:]
    watch.off()
    return {"result": result, "message": message, "seen": watch.seen}


def main(folder: Path) -> None:
    logging.disable()
    baits = json.loads((folder / "baits.json").read_text())
    watch = Watch()
    for opener, path in baits["warm"]:
        # Whatever is imported late is imported here.
        OPENERS[opener](Path(path))
    outcomes = [outcome(opener, Path(path), watch) for opener, path in baits["opened"]]
    (folder / "outcomes.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
