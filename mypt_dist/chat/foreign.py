"""Chat templates that other programs wrote: conversations laid out as Jinja says, without trusting what it makes.

A template is a program. It is run in a sandbox, with a mark in place of every text, so that what it makes shows where
texts went: only what stands between the marks may become control tokens. Then it is run on the texts themselves, and
what it changes, leaves out or repeats is refused, as is a template under which a conversation that goes on does not
begin as it did before, or whose stop token would not be learned.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, StrictStr

from mypt_dist.chat.conversation import Conversation, Turn
from mypt_dist.chat.jinja import NAMES, compiled, rendered
from mypt_dist.chat.kinds import KIND, KindWeights
from mypt_dist.chat.render import Ids, Rendered, Run, joined, require_tokens
from mypt_dist.config import Config, read_json
from mypt_dist.errors import ConfigError, DataError
from mypt_dist.tokenizers import Tokenizer

_MARK = "\u27e6{}\u27e7"
_MARKS = re.compile("\u27e6(\\d+)\u27e7")


class JinjaTemplate(Config):
    """The chat template of another program."""

    format: Literal["jinja"] = "jinja"
    version: Literal[1] = 1
    name: StrictStr
    source: Annotated[StrictStr, Field(min_length=1)]
    stop: Annotated[StrictStr, Field(min_length=1)]
    """The control token with which a turn of the assistant ends."""
    control: tuple[StrictStr, ...] = ()
    """Further control tokens that it writes."""
    names: dict[StrictStr, StrictStr] = {}
    """What it calls control tokens: ``bos_token`` and the like."""

    def tokens(self) -> tuple[str, ...]:
        """The control tokens it needs, each once."""
        return tuple(dict.fromkeys([*self.control, *self.names.values(), self.stop]))

    @classmethod
    def read(cls, path: Path, *, stop: str | None = None, control: Sequence[str] = ()) -> "JinjaTemplate":
        """From a file of Jinja, or a model's ``tokenizer_config.json``, which knows its control tokens, too.

        Raises `ConfigError` where there is no template, or nobody says what its stop token is.
        """
        if path.suffix != ".json":
            try:
                source, told, names = path.read_text(encoding="utf-8"), list(control), dict[str, str]()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"the template {path} cannot be read: {error}") from None
        else:
            raw = read_json(path)
            found = raw.get("chat_template") if isinstance(raw, dict) else None
            if not isinstance(found, str):
                raise ConfigError(f"{path} holds no chat_template")
            source = found
            names = {key: text for key in _NAMED if (text := _token(raw.get(key))) is not None}
            added = (raw.get("added_tokens_decoder") or {}).values()
            told = [*control, *(text for token in added if (text := _token(token)) and text in source)]
        stop = stop or names.get("eos_token")
        if stop is None:
            raise ConfigError(f"{path} does not say with which control token an answer ends: --stop TOKEN")
        used = {key: text for key, text in names.items() if key in source}
        compiled(source)
        return cls(name=path.stem, source=source, stop=stop, control=tuple(dict.fromkeys(told)), names=used)


_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")


def _token(raw: Any) -> str | None:
    found = raw.get("content") if isinstance(raw, Mapping) else raw
    return found if isinstance(found, str) and found else None


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a template made of marks."""

    pieces: tuple[str | int, ...]
    """Text of the template's own, and numbers of parts, in turn."""
    learned: tuple[bool, ...]
    """Of each piece."""


class JinjaRenderer:
    """What `Renderer` is for templates of ours. Tool calls are refused: Jinja would spell them among its own text."""

    def __init__(self, tokenizer: Tokenizer, template: JinjaTemplate, weights: KindWeights | None = None) -> None:
        """Raises `ConfigError` where the tokenizer lacks a control token that the template needs."""
        require_tokens(tokenizer, template.name, template.tokens())
        self.tokenizer, self.template = tokenizer, template
        self._jinja = compiled(template.source)
        self._table = (weights or KindWeights({})).table()
        longest_first = sorted(tokenizer.specials, key=len, reverse=True)
        self._names = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        self._special = set(tokenizer.specials.values())

    @property
    def stop_id(self) -> int:
        """The token that ends a turn of the assistant."""
        return self.tokenizer.specials[self.template.stop]

    def render(self, conversation: Conversation) -> Rendered:
        """See `Renderer.render`. Raises `DataError` for what the template does not lay out as it must."""
        layout = self._layout(conversation)
        texts = [part.text for _, part in conversation.parts()]
        whole = "".join(piece if isinstance(piece, str) else texts[piece] for piece in layout.pieces)
        if whole != self._text(conversation, texts):
            raise DataError(
                "the chat template changes texts, such as white space at their ends: they must stay as they are"
            )
        return joined(list(self._runs(layout, conversation)), self._table)

    def prompt(self, conversation: Conversation) -> Ids:
        """See `Renderer.prompt`."""
        texts = [part.text for _, part in conversation.parts()]
        marked = self._text(conversation, _marks(len(texts)), ask=True)
        runs = [self._ids(piece, texts) for piece in _pieces(marked)]
        return np.concatenate([np.empty(0, np.uint32), *runs])

    def text(self, conversation: Conversation) -> str:
        """See `Renderer.text`."""
        return self.tokenizer.decode(self.render(conversation).ids.tolist())

    def texts(self, ids: Ids, shape: Conversation) -> list[str]:
        """See `Renderer.texts`."""
        found, at, pieces = dict[int, str](), 0, self._layout(shape).pieces
        for piece, behind in pairwise([*pieces, ""]):
            if isinstance(piece, str):
                own = self._ids(piece, ())
                if not np.array_equal(ids[at : at + len(own)], own):
                    raise DataError(f"token {at} does not begin {piece!r}, as the template has it there")
                at += len(own)
                continue
            suffix = self._ids(behind, ()).tolist() if isinstance(behind, str) else []
            before = next((k for k, token in enumerate(suffix) if token in self._special), None)
            ends = [at + k for k, token in enumerate(ids[at:].tolist()) if token in self._special]
            if before is None or not ends or ends[0] < at + before:
                raise DataError(f"no control token ends the text at token {at}")
            found[piece] = self.tokenizer.decode(ids[at : ends[0] - before].tolist())
            at = ends[0] - before
        return [found[number] for number in sorted(found)]

    def _layout(self, conversation: Conversation) -> _Layout:
        """Where texts go, and what is learned, told from how the conversation grows turn by turn."""
        count = sum(1 for _ in conversation.parts())
        whole = self._text(conversation, _marks(count))
        learned = list(self._answers(conversation, whole, count))
        pieces, flags, at = list[str | int](), list[bool](), 0
        borders = sorted({edge for span in learned for edge in span})
        for piece in _pieces(whole):
            size = len(_MARK.format(piece)) if isinstance(piece, int) else len(piece)
            cuts = [edge for edge in borders if at < edge < at + size] if isinstance(piece, str) else []
            for begin, end in pairwise([at, *cuts, at + size]):
                pieces.append(piece if isinstance(piece, int) else whole[begin:end])
                flags.append(any(first <= begin < last for first, last in learned))
            at += size
        numbers = [piece for piece in pieces if isinstance(piece, int)]
        if numbers != list(range(count)):
            raise DataError("the chat template leaves out texts, repeats them or changes their order")
        return _Layout(tuple(pieces), tuple(flags))

    def _answers(self, conversation: Conversation, whole: str, count: int) -> Iterator[tuple[int, int]]:
        """Where in ``whole`` what is learned begins and ends."""
        marks, turns = _marks(count), conversation.turns
        for number, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            asked = self._text(Conversation(turns[:number]), marks, ask=True)
            answered = self._text(Conversation(turns[: number + 1]), marks)
            if not whole.startswith(answered) or not answered.startswith(asked):
                raise DataError(
                    "the chat template is not prefix-preserving: up to its turn "
                    f"{number + 1} a conversation is laid out otherwise when it goes on"
                )
            end = answered.rfind(self.template.stop, len(asked))
            if end < 0:
                raise DataError(
                    f"the chat template does not end answers with {self.template.stop!r}: it would not be learned"
                )
            if turn.learned:
                yield len(asked), end + len(self.template.stop)

    def _text(self, conversation: Conversation, texts: Sequence[str], *, ask: bool = False) -> str:
        said = iter(texts)
        messages = [_message(turn, said) for turn in conversation.turns]
        return rendered(self._jinja, messages, ask=ask, names=self.template.names)

    def _runs(self, layout: _Layout, conversation: Conversation) -> Iterator[Run]:
        parts = list(conversation.parts())
        texts = [part.text for _, part in parts]
        for piece, learned in zip(layout.pieces, layout.learned, strict=True):
            if isinstance(piece, int):
                turn, part = parts[piece]
                kind = turn.role if part.kind == "text" else part.kind
                yield Run(self._ids(piece, texts), KIND[kind], learned)
                continue
            for word in filter(None, self._names.split(piece)):
                yield Run(self._ids(word, ()), KIND["end" if word == self.template.stop else "tag"], learned)

    def _ids(self, piece: str | int, texts: Sequence[str]) -> Ids:
        """Control tokens only in what is the template's own."""
        if isinstance(piece, int):
            return self.tokenizer.encode(texts[piece])
        specials = self.tokenizer.specials
        words = [
            np.array([specials[word]], np.uint32) if word in specials else self.tokenizer.encode(word)
            for word in self._names.split(piece)
            if word
        ]
        return np.concatenate([np.empty(0, np.uint32), *words])


def _marks(count: int) -> list[str]:
    return [_MARK.format(number) for number in range(count)]


def _pieces(marked: str) -> Iterator[str | int]:
    for place, word in enumerate(_MARKS.split(marked)):
        if place % 2:
            yield int(word)
        elif word:
            yield word


def _message(turn: Turn, texts: Iterator[str]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": NAMES[turn.role][0], "content": ""}
    for part in turn.parts:
        key = {"text": "content", "think": "reasoning_content"}.get(part.kind)
        if key is None:
            raise DataError(f"a chat template of another program cannot lay out {part.kind} safely")
        message[key] = next(texts)
    return message
