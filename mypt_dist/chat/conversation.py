"""What is a conversation, whatever file it came from? Turns in order, each of parts that are text."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

Role: TypeAlias = Literal["system", "context", "user", "assistant", "toolresult"]
"""Who speaks. ``context``: what was looked up for the turns behind it. ``toolresult``: a tool's answer."""
PartKind: TypeAlias = Literal["text", "think", "toolcall", "cite"]
"""What is said. All but ``text`` stand in turns of the assistant only."""

ROLES: tuple[Role, ...] = get_args(Role)
PART_KINDS: tuple[PartKind, ...] = get_args(PartKind)


@dataclass(frozen=True, slots=True)
class Part:
    """A run of text of one kind."""

    kind: PartKind
    text: str


@dataclass(frozen=True, slots=True)
class Turn:
    """All that one speaker says at once."""

    role: Role
    parts: tuple[Part, ...]
    learned: bool = True
    """False: the assistant said it, but a model is not to learn it. Of other roles nothing is ever learned."""

    @classmethod
    def says(cls, role: Role, text: str) -> "Turn":
        """A turn of text alone."""
        return cls(role, (Part("text", text),))

    @property
    def is_target(self) -> bool:
        """Whether a model learns to say it."""
        return self.learned and self.role == "assistant"


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in the order in which they were made."""

    turns: tuple[Turn, ...]

    def parts(self) -> Iterator[tuple[Turn, Part]]:
        """Every part, in order, with the turn it belongs to."""
        for turn in self.turns:
            for part in turn.parts:
                yield turn, part

    def then(self, *turns: Turn) -> "Conversation":
        """The same, gone on."""
        return Conversation((*self.turns, *turns))


def spelled(value: Any) -> str:
    """``value`` as JSON, as chat templates of Hugging Face spell it: on one line, no character escaped needlessly."""
    return json.dumps(value, ensure_ascii=False)


def spelled_call(name: str, arguments: Any) -> str:
    """The text of a tool call. ``arguments``: a value, or JSON that is spelled already."""
    written = arguments if isinstance(arguments, str) else spelled(arguments)
    return f'{{"name": {spelled(name)}, "arguments": {written}}}'
