"""What did the model answer? Its tokens, read as the parts that the template has a place for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mypt_dist.chat.conversation import Part, PartKind, Turn
from mypt_dist.chat.render import Renderer


@dataclass(frozen=True, slots=True)
class Answer:
    """A turn of the assistant as a model made it."""

    turn: Turn
    """Learned only where it is complete and well-formed: a transcript must not teach what went wrong."""
    complete: bool
    """Whether it came to its own end, and was not cut."""
    well_formed: bool
    """Whether every control token stood where the template has it."""

    @property
    def text(self) -> str:
        """Of its parts that are text."""
        return "".join(part.text for part in self.turn.parts if part.kind == "text")


def read_answer(ids: Iterable[int], renderer: Renderer) -> Answer:
    """What stands in ``ids``, which continue `Renderer.prompt`; nothing behind the end of the turn is looked at.

    A control token that has no place there is left out, and the answer is not well-formed.
    """
    reader = _Reader(renderer)
    for token in ids:
        if reader.complete:
            break
        reader.read(int(token))
    return reader.answer()


def closing_ids(renderer: Renderer) -> frozenset[int]:
    """The tokens that end a turn of the assistant: those that close it, and the end of text."""
    tokenizer, close = renderer.tokenizer, renderer.template.turns["assistant"].close
    return frozenset([*(tokenizer.specials[piece.token] for piece in close if piece.token), tokenizer.eot_id])


class _Reader:
    def __init__(self, renderer: Renderer) -> None:
        template, self._tokenizer = renderer.template, renderer.tokenizer
        specials = self._tokenizer.specials
        self._names = frozenset(specials.values())
        self._opens: dict[int, PartKind] = {}
        self._closes: dict[PartKind, int] = {}
        for kind, frame in template.parts.items():
            opening, closing = (
                [piece.token for piece in pieces if piece.token] for pieces in (frame.open, frame.close)
            )
            self._opens[specials[opening[0]]] = kind
            self._closes[kind] = specials[closing[0]]
        self._ends = closing_ids(renderer)
        self._right_end = next(specials[p.token] for p in template.turns["assistant"].close if p.token)
        self._kind: PartKind = "text"
        self._held: list[int] = []
        self._parts: list[Part] = []
        self._well_formed, self.complete = True, False

    def read(self, token: int) -> None:
        if token not in self._names:
            self._held.append(token)
        elif token in self._ends:
            # Any of them is the end, one of them is the end that was taught.
            self._well_formed &= self._kind == "text" and token == self._right_end
            self.complete = True
        elif self._kind == "text" and token in self._opens:
            self._end_part(self._opens[token])
        elif self._kind != "text" and token == self._closes[self._kind]:
            self._end_part("text")
        else:
            self._well_formed = False

    def answer(self) -> Answer:
        open_part = self._kind != "text"
        self._end_part("text")
        well_formed = self._well_formed and not open_part
        parts = tuple(self._parts) or (Part("text", ""),)
        return Answer(Turn("assistant", parts, self.complete and well_formed), self.complete, well_formed)

    def _end_part(self, kind: PartKind) -> None:
        if self._held or self._kind != "text":
            self._parts.append(Part(self._kind, self._tokenizer.decode(self._held)))
        self._kind, self._held = kind, []


def adherence(answers: Sequence[Answer]) -> float:
    """Share of them that are complete and well-formed; 0 of none."""
    return sum(answer.turn.learned for answer in answers) / max(1, len(answers))
