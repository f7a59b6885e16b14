"""How a rank tells a supervisor its exit code: a launcher between the two reports only its own."""

import os
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from pathlib import Path

FOLDER = "MYPT_EXIT_NOTES"
"""The variable that names the folder for the notes. Also the mark by which a supervisor knows its processes."""


def noted(run: Callable[[], int], environ: MutableMapping[str, str]) -> int:
    """``run()``, and a note of how it ended if a supervisor asked for one. A note that cannot be written is left out.

    What the process starts in its turn does not inherit the request.
    """
    folder = environ.pop(FOLDER, None)
    if not folder:
        return run()
    rank = environ.get("RANK", "0")
    _leave(Path(folder), f"{rank}.began", "")
    code = 1
    try:
        code = run()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        raise
    finally:
        _leave(Path(folder), f"{rank}.ended", str(code))
    return code


def read_notes(folder: Path) -> dict[int, int | None]:
    """Exit code of every rank that began, in rank order; None for one that left no word."""
    began = sorted(int(path.stem) for path in folder.glob("*.began"))
    return {rank: _code(folder / f"{rank}.ended") for rank in began}


def _code(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _leave(folder: Path, name: str, text: str) -> None:
    with suppress(OSError):
        aside = folder / f"{name}.{os.getpid()}"
        aside.write_text(text)
        aside.rename(folder / name)
