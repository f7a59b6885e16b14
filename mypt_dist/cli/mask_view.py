"""Conversations in a terminal: what is learned in green, control tokens bold."""

from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from mypt_dist.data.chat.view import Run, Shown


def as_text(shown: "Shown") -> Text:
    """With marks as well as colours where something is learned: a pipe has none."""
    text = Text(f"── {shown.title} ──\n", style="bold")
    for run in shown.runs:
        weight = f"{run.weight:g}: " if run.learned and run.weight != 1 else ""
        said = _harmless(run.text)
        text.append(f"«{weight}{said}»" if run.learned else said, _style(run))
    return text.append("\n")


def _harmless(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def _style(run: "Run") -> str:
    return " ".join(
        ["green" if run.learned else "bright_black", *(["bold"] if run.is_control else ["not bold"])],
    )
