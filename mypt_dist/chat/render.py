"""Conversations to tokens, and what of them is learned: decided token by token, never by looking at text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mypt_dist.chat.conversation import Conversation, Part, Turn
from mypt_dist.chat.kinds import KIND, KindWeights
from mypt_dist.chat.template import MYPT, Frame, Piece, Pieces, Template
from mypt_dist.errors import ConfigError, DataError
from mypt_dist.tokenizers import Tokenizer

Ids = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Rendered:
    """The tokens of a conversation, in order."""

    ids: Ids
    """(n,)."""
    mask: NDArray[np.uint8]
    """(n,): 1 where the token is learned as a target."""
    kinds: NDArray[np.uint8]
    """(n,): places in `KINDS`."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> "Rendered":
        return Rendered(self.ids[part], self.mask[part], self.kinds[part])

    @property
    def learned(self) -> int:
        """Tokens that are learned. The first has nothing before it to be told from."""
        return int(np.count_nonzero(self.mask[1:]))


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring tokens of one kind."""

    ids: Ids
    kind: int
    learned: bool


class Renderer:
    """Lays conversations out for one tokenizer. Text of users and documents never becomes a control token."""

    def __init__(self, tokenizer: Tokenizer, template: Template = MYPT, weights: KindWeights | None = None) -> None:
        """Raises `ConfigError` where the tokenizer lacks a control token that the template needs."""
        missing = missing_tokens(tokenizer, template)
        if missing:
            raise ConfigError(
                f"the template {template.name!r} needs the control tokens {', '.join(missing)}; the {tokenizer.kind} "
                f"tokenizer has {', '.join(tokenizer.specials)}"
            )
        self.tokenizer, self.template = tokenizer, template
        self._table = (weights or KindWeights({})).table()
        self._special = np.zeros(tokenizer.vocab_size, np.bool_)
        self._special[list(tokenizer.specials.values())] = True
        self._known: dict[Piece, Ids] = {}

    @property
    def stop_id(self) -> int:
        """The token that ends a turn of the assistant."""
        return self.tokenizer.specials[self.template.stop]

    def render(self, conversation: Conversation) -> Rendered:
        """All of a conversation. Raises `DataError` for a role or a part that the template has no place for."""
        return _joined([*self._pieces(self.template.begin, "tag", False), *self._turns(conversation)], self._table)

    def prompt(self, conversation: Conversation) -> Ids:
        """What to continue for the assistant's next turn: the conversation and the beginning of that turn, (n,)."""
        asking = self._pieces(self.template.turns["assistant"].open, "tag", False)
        return np.concatenate([self.render(conversation).ids, *(run.ids for run in asking)])

    def text(self, conversation: Conversation) -> str:
        """What `render` gives, as text with the names of control tokens: for people, and for other programs."""
        return self.tokenizer.decode(self.render(conversation).ids.tolist())

    def texts(self, ids: Ids, shape: Conversation) -> list[str]:
        """The text of every part in tokens that `render` made. ``shape``: the conversation, whatever its texts are.

        Raises `DataError` where the tokens are none of such a conversation.
        """
        found, at = list[str](), self._skipped(ids, 0, self.template.begin)
        for turn in shape.turns:
            frame = self._frame(turn)
            at = self._skipped(ids, at, frame.open)
            for number, part in enumerate(turn.parts):
                inner = self._inner(part)
                at = self._skipped(ids, at, inner.open)
                rest = turn.parts[number + 1 :]
                behind = inner.close or (self._inner(rest[0]).open if rest else frame.close)
                end = self._end_of_text(ids, at, behind)
                found.append(self.tokenizer.decode(ids[at:end].tolist()))
                at = self._skipped(ids, end, inner.close)
            at = self._skipped(ids, at, (*frame.close, *frame.after))
        if at != len(ids):
            raise DataError(f"{len(ids) - at} tokens stand behind the end of the conversation")
        return found

    def _turns(self, conversation: Conversation) -> Iterator[_Run]:
        for turn in conversation.turns:
            frame, learned = self._frame(turn), turn.is_target
            yield from self._pieces(frame.open, "tag", False)
            for part in turn.parts:
                inner = self._inner(part)
                yield from self._pieces(inner.open, "tag", learned)
                kind = turn.role if part.kind == "text" else part.kind
                yield _Run(self.tokenizer.encode(part.text), KIND[kind], learned)
                yield from self._pieces(inner.close, "close", learned)
            for piece in frame.close:
                is_end = turn.role == "assistant" and piece.token == self.template.stop
                yield from self._pieces((piece,), "end" if is_end else "close", learned)
            yield from self._pieces(frame.after, "tag", False)

    def _frame(self, turn: Turn) -> Frame:
        frame = self.template.turns.get(turn.role)
        if frame is None:
            raise DataError(f"the template {self.template.name!r} has no place for turns of {turn.role}")
        return frame

    def _inner(self, part: Part) -> Frame:
        frame = self.template.parts.get(part.kind, Frame() if part.kind == "text" else None)
        if frame is None:
            raise DataError(f"the template {self.template.name!r} has no place for {part.kind}")
        return frame

    def _pieces(self, pieces: Pieces, kind: str, learned: bool) -> Iterator[_Run]:
        for piece in pieces:
            yield _Run(self._ids(piece), KIND[kind], learned)

    def _ids(self, piece: Piece) -> Ids:
        if piece not in self._known:
            self._known[piece] = (
                np.array([self.tokenizer.specials[piece.token]], np.uint32)
                if piece.token is not None
                else self.tokenizer.encode(piece.text or "")
            )
        return self._known[piece]

    def _skipped(self, ids: Ids, at: int, pieces: Sequence[Piece]) -> int:
        for piece in pieces:
            expected = self._ids(piece)
            if not np.array_equal(ids[at : at + len(expected)], expected):
                raise DataError(
                    f"token {at} does not begin {piece.token or piece.text!r}, as the template has it there"
                )
            at += len(expected)
        return at

    def _end_of_text(self, ids: Ids, at: int, behind: Sequence[Piece]) -> int:
        """Where the text that begins at ``at`` ends: before ``behind``, which holds a control token."""
        specials = np.flatnonzero(self._special[ids[at:]])
        own = sum(len(self._ids(piece)) for piece in _until_token(behind))
        if not len(specials) or specials[0] < own:
            raise DataError(f"no control token ends the text at token {at}")
        return at + int(specials[0]) - own


def missing_tokens(tokenizer: Tokenizer, template: Template) -> tuple[str, ...]:
    """The control tokens of the template that the tokenizer does not have."""
    return tuple(name for name in template.tokens() if name not in tokenizer.specials)


def token_names(tokenizer: Tokenizer) -> Mapping[int, str]:
    """The control tokens by id."""
    return {number: name for name, number in tokenizer.specials.items()}


def _until_token(pieces: Sequence[Piece]) -> Iterator[Piece]:
    for piece in pieces:
        if piece.token is not None:
            return
        yield piece


def _joined(runs: Sequence[_Run], weights: NDArray[np.float32]) -> Rendered:
    lengths = [len(run.ids) for run in runs]
    kinds = np.repeat(np.array([run.kind for run in runs], np.uint8), lengths)
    learned = np.repeat(np.array([run.learned for run in runs], np.bool_), lengths)
    ids = np.concatenate([run.ids for run in runs]) if runs else np.empty(0, np.uint32)
    return Rendered(ids.astype(np.uint32, copy=False), (learned & (weights[kinds] > 0)).astype(np.uint8), kinds)
