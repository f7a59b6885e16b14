"""Faults put into a rank before it starts, by name: what cannot be done to it from outside at the right moment.

``"name"``, or ``"name:argument:…"``; several with semicolons between. Those called *without…* take a safeguard away.
"""

import builtins
import errno
import os
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mypt_dist import errors
from mypt_dist.checkpoint import CheckpointStore, Files, store
from mypt_dist.checkpoint.attempt import Commit
from mypt_dist.cli import train
from mypt_dist.run import build, checkpointing, record, same_start
from mypt_dist.run.observer import RunObserver
from mypt_dist.tracking import journal
from mypt_dist.training.signals import StopRequest
from mypt_dist.training.state import TrainState

INJECTIONS: dict[str, Callable[..., None]] = {}


def injection(action: Callable[..., None]) -> Callable[..., None]:
    """Register under the function's name."""
    INJECTIONS[action.__name__] = action
    return action


def inject(wanted: str) -> None:
    """Do what the text asks for; nothing if it is empty."""
    for one in filter(None, wanted.split(";")):
        name, *arguments = one.split(":")
        INJECTIONS[name](*arguments)


@injection
def without_random_states() -> None:
    """A resume that forgets where the random numbers were."""
    checkpointing.set_rng_state = lambda state: None


@injection
def at_step(step: str, what: str, which: str) -> None:
    """Once so many steps are done: ``signal`` and its name, ``raise`` and an error's, or ``exit`` and a code."""

    def happen() -> None:
        if what == "signal":
            os.kill(os.getpid(), signal.Signals[which])
        elif what == "exit":
            os._exit(int(which))
        else:
            raise getattr(errors, which, getattr(builtins, which, None))("put into it by a test")  # type: ignore[misc]

    after_step(int(step), happen)


def after_step(step: int, action: Callable[[], None]) -> None:
    """Call ``action`` when the step is in the journal."""
    measured = RunObserver.measured

    def and_act(self: RunObserver, state: TrainState, metrics: Mapping[str, float]) -> None:
        measured(self, state, metrics)
        if state.step == step and "train/loss" in metrics:
            action()

    RunObserver.measured = and_act  # type: ignore[method-assign]


@injection
def journal_disk_full(first: str, last: str, waiting: str) -> None:
    """No room for the journal after one step and before the end of another; so many lines may wait in memory."""
    full = False

    def write(descriptor: int, data: memoryview) -> int:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(descriptor, data)

    def turn(now: bool) -> None:
        nonlocal full
        full = now

    journal.WAITING_LINES = int(waiting)  # type: ignore[misc]
    record.Journal = partial(journal.Journal, write=write)  # type: ignore[misc,assignment]
    after_step(int(first), lambda: turn(True))
    after_step(int(last), lambda: turn(False))


@injection
def without_ears() -> None:
    """A rank that does not pass on the signals it gets."""
    vote = StopRequest.vote
    StopRequest.vote = lambda self: tuple(0 for _ in vote(self))  # type: ignore[method-assign,assignment,return-value]


def die() -> None:
    """kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


def while_saving(step: int) -> Callable[[], bool]:
    """Whether the save of that step has begun."""
    saving = False
    save = CheckpointStore.save

    def save_and_tell(self: CheckpointStore, at: int, *arguments: Any, **named: Any) -> Path:
        nonlocal saving
        saving = at == step
        return save(self, at, *arguments, **named)

    CheckpointStore.save = save_and_tell  # type: ignore[method-assign,assignment]
    return lambda: saving


@injection
def die_while_writing(step: str, after: str) -> None:
    """kill -9 in the save of a step, after so many bytes of this rank's files."""
    saving, written, write = while_saving(int(step)), 0, Files.write

    def write_some(self: Files, descriptor: int, data: memoryview) -> int:
        nonlocal written
        if saving():
            written += data.nbytes
            if written > int(after):
                os.write(descriptor, data[: int(after) - written])
                die()
        return write(self, descriptor, data)

    Files.write = write_some  # type: ignore[method-assign]


@injection
def die_in_save(step: str, phase: str) -> None:
    """kill -9 in the save of a step, in a phase of the commit."""
    saving = while_saving(int(step))
    owner, name, first = {
        "gathered": (Commit, "__call__", True),
        "manifest": (Commit, "_write_manifest", False),
        "renamed": (Files, "rename", False),
        "committed": (Commit, "_put_in_place", False),
        "retention": (store, "apply_retention", True),
    }[phase]
    method = getattr(owner, name)

    def act(*arguments: Any, **named: Any) -> Any:
        if saving() and first:
            die()
        result = method(*arguments, **named)
        if saving():
            die()
        return result

    setattr(owner, name, act)


@injection
def without_manifest_first(step: str) -> None:
    """A commit that renames the folder into place before the manifest is in it, and dies in between."""

    def hasty(self: Commit, *arguments: Any) -> None:
        self._put_in_place()
        if self.step == int(step):
            die()

    commit = Commit.__call__
    Commit.__call__ = lambda self, *arguments: (  # type: ignore[method-assign]
        hasty(self) if self.step == int(step) else commit(self, *arguments)
    )


@injection
def other_code() -> None:
    """A rank of another commit."""
    code = same_start.code_version()
    same_start.code_version = lambda: {**code, "commit": "f" * 40}


@injection
def unguarded() -> None:
    """Ranks that do not compare how they were started."""
    build.require_same_start = lambda world, facts: None


def print_to(descriptor: int) -> None:
    """From now on, standard output and standard error go there."""
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


@injection
def reader_leaves(step: str) -> None:
    """Output is a pipe, whose other end is closed after a step or, with 0, from the start."""
    reading, writing = os.pipe()
    print_to(writing)
    os.close(writing)
    if int(step):
        after_step(int(step), lambda: os.close(reading))
    else:
        os.close(reading)


@injection
def terminal_goes(step: str) -> None:
    """Output is a terminal, which is closed after a step."""
    master, slave = os.openpty()
    print_to(slave)
    os.close(slave)
    after_step(int(step), lambda: os.close(master))


@injection
def output_disk_full() -> None:
    """Output is a file on a disk without room."""
    print_to(os.open("/dev/full", os.O_WRONLY))


@injection
def without_deaf_ears() -> None:
    """Last words that insist on being heard."""
    train.tell = lambda text: print(text, flush=True)
