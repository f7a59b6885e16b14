"""How is a conversation laid out in tokens? A template is data: what stands before and behind every turn and part.

Turns are put one behind the other and nothing looks ahead or back, so that a conversation cut after a turn is laid out
as the beginning of the whole one, whatever the template says: what a model saw in training is what it sees in a chat.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StrictStr, model_validator

from mypt_dist.chat.conversation import PART_KINDS, ROLES, PartKind, Role
from mypt_dist.config import Config, read_json, validate
from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers import END_OF_TURN


class Piece(Config):
    """A control token, or text of the template's own."""

    token: Annotated[StrictStr, Field(min_length=1)] | None = None
    text: Annotated[StrictStr, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.token is None) == (self.text is None):
            raise ValueError("needs either token (a control token) or text")
        return self


Pieces = tuple[Piece, ...]


class Frame(Config):
    """What stands around a turn or a part."""

    open: Pieces = ()
    """Never learned as the beginning of a turn: whoever asks for an answer writes it."""
    close: Pieces = ()
    """Learned where what it closes is."""
    after: Pieces = ()
    """Behind the turn, never learned: nobody reads on after the stop token."""


class Template(Config):
    """The layout of conversations."""

    format: Literal["mypt-template"] = "mypt-template"
    version: Literal[1] = 1
    name: Annotated[StrictStr, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    begin: Pieces = ()
    """Before the first turn. Never learned."""
    turns: dict[Role, Frame]
    """By role. A conversation with a role that is not here cannot be laid out."""
    parts: dict[PartKind, Frame] = {}
    """Inside a turn of the assistant, by kind. ``text`` needs no frame."""
    stop: StrictStr
    """The control token with which a turn of the assistant ends: the last that its ``close`` has."""

    @model_validator(mode="after")
    def _can_be_learned(self) -> Self:
        """What a model trained on it could not do is refused before it is trained."""
        if "assistant" not in self.turns:
            raise ValueError("turns must have the assistant: nothing else is learned")
        tokens = [piece.token for piece in self.turns["assistant"].close if piece.token]
        if self.stop not in tokens:
            raise ValueError(
                f"stop is {self.stop!r}, which turns.assistant.close does not hold: a model that never learns to stop "
                "goes on for ever"
            )
        if tokens[-1] != self.stop or self.turns["assistant"].close[-1].token != self.stop:
            raise ValueError(f"turns.assistant.close must end with its stop {self.stop!r}; put what follows in after")
        if not self.turns["assistant"].open:
            raise ValueError("turns.assistant.open must hold something: it is what an answer is asked for with")
        return self

    @model_validator(mode="after")
    def _can_be_read_back(self) -> Self:
        """Texts must be told from each other, and from the template's own text."""
        for key, frame in self.frames():
            if not any(piece.token for piece in frame.close):
                raise ValueError(f"{key}.close needs a control token: nothing else tells where the text before it ends")
            if key.startswith("parts.") and not (frame.open and frame.open[0].token):
                raise ValueError(f"{key}.open must begin with a control token: it tells where the text before it ends")
        return self

    def frames(self) -> Iterator[tuple[str, Frame]]:
        """Every frame by its key."""
        for role, frame in self.turns.items():
            yield f"turns.{role}", frame
        for kind, frame in self.parts.items():
            yield f"parts.{kind}", frame

    def tokens(self) -> tuple[str, ...]:
        """The control tokens it needs, each once, in the order in which it names them."""
        pieces = [*self.begin, *(piece for _, frame in self.frames() for piece in _all(frame))]
        return tuple(dict.fromkeys(piece.token for piece in pieces if piece.token))

    @classmethod
    def read(cls, named: str) -> "Template":
        """A shipped template by name, or one in a JSON file. Raises `ConfigError`."""
        if named in TEMPLATES:
            return TEMPLATES[named]
        path = Path(named)
        if not path.exists():
            raise ConfigError(f"no template is called {named!r} (known: {', '.join(TEMPLATES)}), and no such file")
        raw = read_json(path)
        if isinstance(raw, dict):
            raw.pop("$schema", None)
        return validate(cls, raw, str(path))


def _all(frame: Frame) -> Pieces:
    return (*frame.open, *frame.close, *frame.after)


def _tokens(*names: str) -> Pieces:
    return tuple(Piece(token=name) for name in names)


def _section(name: str, *behind: str) -> Frame:
    return Frame(open=_tokens(f"<|{name}|>"), close=_tokens(f"<|/{name}|>", *behind))


def _mypt() -> Template:
    """Each part between the tags of its section; an end of turn where somebody else may speak."""
    turns: dict[Role, Frame] = {
        role: _section(role, *([END_OF_TURN] if role in ("user", "assistant", "toolresult") else [])) for role in ROLES
    }
    parts: dict[PartKind, Frame] = {kind: _section(kind) for kind in PART_KINDS if kind != "text"}
    return Template(name="mypt", turns=turns, parts=parts, stop=END_OF_TURN)


def _chatml() -> Template:
    """OpenAI's ChatML. Its two control tokens are none of ours: a tokenizer must be given them."""
    names: dict[Role, str] = {"system": "system", "user": "user", "assistant": "assistant", "toolresult": "tool"}
    turns: dict[Role, Frame] = {
        role: Frame(
            open=(Piece(token="<|im_start|>"), Piece(text=f"{name}\n")),
            close=_tokens("<|im_end|>"),
            after=(Piece(text="\n"),),
        )
        for role, name in names.items()
    }
    tags: dict[PartKind, str] = {"think": "think", "toolcall": "tool_call"}
    parts = {kind: Frame(open=_tokens(f"<{tag}>"), close=_tokens(f"</{tag}>")) for kind, tag in tags.items()}
    return Template(name="chatml", turns=turns, parts=parts, stop="<|im_end|>")


MYPT = _mypt()
TEMPLATES = {template.name: template for template in (MYPT, _chatml())}
"""The shipped ones, by name."""
