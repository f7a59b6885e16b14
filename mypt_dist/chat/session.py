"""A conversation under way: what was said, what of it still fits into the model's context, and how to take it back."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from mypt_dist.chat.answer import Answer
from mypt_dist.chat.conversation import Conversation, Turn
from mypt_dist.chat.render import Renderer
from mypt_dist.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and what was answered."""

    question: str
    context: str | None = None
    """What was looked up for it."""
    answer: Answer | None = None
    """None: not yet."""

    def turns(self) -> tuple[Turn, ...]:
        """In the order of the template's conversations."""
        looked_up = () if self.context is None else (Turn.says("context", self.context),)
        answered = () if self.answer is None else (self.answer.turn,)
        return (*looked_up, Turn.says("user", self.question), *answered)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is to continue."""

    ids: NDArray[np.uint32]
    """(n,)."""
    forgotten: int
    """Exchanges at the beginning that did not fit any more."""


@dataclass
class Session:
    """System text, documents and exchanges. Nothing here draws, prints or writes."""

    renderer: Renderer
    system: str | None = None
    context: str | None = None
    """Documents for the whole conversation."""
    exchanges: list[Exchange] = field(default_factory=list)
    attached: list[str] = field(default_factory=list)
    """Documents for the next question."""

    def ask(self, question: str) -> None:
        """A new question, with the documents that were attached for it."""
        context = "\n\n".join(self.attached) if self.attached else None
        self.exchanges.append(Exchange(question, context))
        self.attached.clear()

    def answered(self, answer: Answer) -> None:
        """The newest question was answered, perhaps again."""
        self.exchanges[-1] = replace(self.exchanges[-1], answer=answer)

    def undo(self) -> Exchange:
        """Take back the newest exchange. Raises `ConfigError` where there is none."""
        if not self.exchanges:
            raise ConfigError("nothing was said yet")
        return self.exchanges.pop()

    def reset(self) -> None:
        """Begin a new conversation with the same system text and documents."""
        self.exchanges.clear()
        self.attached.clear()

    def conversation(self) -> Conversation:
        """Everything that was said."""
        return Conversation((*self._head(), *(turn for one in self.exchanges for turn in one.turns())))

    def prompt(self, room: int) -> Prompt:
        """What asks for an answer to the newest question, of at most ``room`` tokens.

        The oldest exchanges are forgotten whole, as many as must be; system text and documents never are.
        Raises `ConfigError` where not even the newest question fits, `DataError` where the template has no place for a
        turn.
        """
        *earlier, newest = self.exchanges
        asked = replace(newest, answer=None)
        needed = [len(self.renderer.prompt(Conversation((*self._head(), *asked.turns()))))]
        if needed[0] > room:
            raise ConfigError(
                f"the question, with its documents and the system text, has {needed[0]:,} tokens, and the model's "
                f"context has room for {room:,}: shorten them"
            )
        kept = self._fitting(earlier, room - needed[0])
        turns = (turn for one in (*earlier[len(earlier) - kept :], asked) for turn in one.turns())
        return Prompt(self.renderer.prompt(Conversation((*self._head(), *turns))), len(earlier) - kept)

    def _fitting(self, earlier: Sequence[Exchange], room: int) -> int:
        """How many of the newest of ``earlier`` fit into ``room`` tokens. Turns are as long wherever they stand."""
        begin = len(self.renderer.render(Conversation(())))
        kept = 0
        for exchange in reversed(earlier):
            room -= len(self.renderer.render(Conversation(exchange.turns()))) - begin
            if room < 0:
                break
            kept += 1
        return kept

    def _head(self) -> tuple[Turn, ...]:
        said = (("system", self.system), ("context", self.context))
        return tuple(Turn.says(role, text) for role, text in said if text)  # type: ignore[arg-type]  # two roles
