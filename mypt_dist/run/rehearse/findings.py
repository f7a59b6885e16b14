"""What is wrong, why it matters and what to do about it."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "note"]
"""The run would fail or lose work; it would do what is hardly meant; it can not be shown on this machine."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to look at."""

    where: str
    """A dotted key of the run file, a file, a variable or a node."""
    found: str
    why: str
    remedy: str
    severity: Severity = "error"
    check: str = ""
    """Which check found it, as in the catalogue. Filled in by who calls the check."""

    def lines(self) -> list[str]:
        """For people."""
        return [f"{self.severity}: {self.where}: {self.found}", f"why: {self.why}", f"do:  {self.remedy}"]


def split_message(message: str, remedy: str) -> tuple[str, str]:
    """What was found and what to do, of a one-line error that says both; else the given ``remedy``."""
    text = " ".join(message.split())
    found, colon, do = text.rpartition(": ")
    return (found, do) if colon else (text, remedy)
