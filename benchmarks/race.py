"""Contestants in processes of their own, taking turns: ratios of a round hold although the machine's speed drifts."""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO


@dataclass
class Contestant:
    """A process that does one turn of work whenever it is told to, and sleeps in between."""

    name: str
    process: subprocess.Popen[str]

    @classmethod
    def start(cls, name: str, module: str, *arguments: str) -> "Contestant":
        """Start it and wait until it has warmed up."""
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        contestant = cls(name, process)
        contestant._answer()
        return contestant

    def turn(self) -> dict[str, Any]:
        """What one turn measured: ``seconds``, and whatever else the contestant reports."""
        self._tell("go")
        return self._answer()

    def finish(self) -> float:
        """Peak memory in MiB: resident, or what the contestant counts instead."""
        self._tell("end")
        peak = float(self._answer()["peak_mib"])
        self.process.wait()
        return peak

    def _tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            # A library may print what it likes on the same stream.
            if line.startswith('{"turn"'):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise SystemExit(f"{self.name} ended early with exit code {self.process.wait()}")


class Turns:
    """The contestant's side: `begin` blocks until it is this process' turn again."""

    def __init__(self, out: TextIO, peak_mib: Callable[[], float] | None = None) -> None:
        # Whatever the contestant's libraries print must not be taken for an answer.
        self._out = out
        self._peak_mib = peak_mib or _most_resident_mib

    def ready(self) -> bool:
        """Warmed up. Blocks until the first turn; False if there is none."""
        self._say({})
        return self._wait()

    def done(self, seconds: float, **more: float) -> bool:
        """Report a turn. Blocks until the next; False if there is none."""
        self._say({"seconds": seconds, **more})
        return self._wait()

    def _wait(self) -> bool:
        if sys.stdin.readline().strip() == "go":
            return True
        self._say({"peak_mib": self._peak_mib()})
        return False

    def _say(self, answer: Mapping[str, float]) -> None:
        print(json.dumps({"turn": True, **answer}), file=self._out, flush=True)


def _most_resident_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parser(description: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--json", type=Path, help="write all times there as well")
    return options


def race(contestants: Sequence[Contestant], rounds: int) -> dict[str, list[float]]:
    """Seconds by contestant and round. The order is turned by one in every round."""
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds):
        for contestant in [*contestants[number % len(contestants) :], *contestants[: number % len(contestants)]]:
            seconds[contestant.name].append(contestant.turn()["seconds"])
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return seconds


@dataclass(frozen=True)
class Ratio:
    """Per-round ratios of two contestants' times."""

    median: float
    quartile_low: float
    quartile_high: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, above: Sequence[float], below: Sequence[float]) -> "Ratio":
        """Ratios ``above / below`` of equal rounds."""
        ratios = sorted(a / b for a, b in zip(above, below, strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return cls(middle, low, high, ratios[0], ratios[-1])

    def cells(self) -> list[str]:
        """Median, quartiles and extremes for a table."""
        spread = [f"{self.quartile_low:.2f}-{self.quartile_high:.2f}", f"{self.lowest:.2f}-{self.highest:.2f}"]
        return [f"{self.median:.2f}", *spread]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table: the first column is text, the others numbers."""
    lines = [header, ["---", *(["--:"] * (len(header) - 1))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_json(path: Path | None, value: Any) -> None:
    """Every figure, for those who want more than the table."""
    if path is not None:
        path.write_text(json.dumps(value, indent=1) + "\n")
