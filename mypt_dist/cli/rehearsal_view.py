"""What a person sees while a rehearsal goes on."""

from rich.console import Console
from rich.status import Status

from mypt_dist.run.rehearse.perform import Audience
from mypt_dist.run.rehearse.report import StageResult

COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow"}


class Lines(Audience):
    """One line for each stage: for a log."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begins(self, stage: str) -> None:
        """Nothing: a log is read afterwards."""

    def ends(self, result: StageResult) -> None:
        """What came of it."""
        outcome = result.outcome
        line = f"{result.stage:<9} {outcome.verdict:<8} {result.seconds:6.1f} s  {outcome.said}"
        self._console.print(line, style=COLOURS[outcome.verdict], markup=False)


class Spinner(Lines):
    """The same with a spinner below that says what is being played: for a terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._status: Status | None = None

    def begins(self, stage: str) -> None:
        """Show it."""
        self._status = self._console.status(f"{stage} …")
        self._status.start()

    def ends(self, result: StageResult) -> None:
        """Take it away."""
        if self._status:
            self._status.stop()
            self._status = None
        super().ends(result)
