"""What do all formats of conversations have in common? Checked access to JSON, and an account of where texts were."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from mypt_dist.chat.conversation import Conversation, Part, PartKind, Role, Turn
from mypt_dist.errors import DataError

Path: TypeAlias = tuple[str | int, ...]
"""Of a value inside a JSON value."""


class ConversationError(DataError):
    """What is wrong with a conversation, and where in it."""


@dataclass(frozen=True, slots=True)
class Found:
    """A conversation as a format has it."""

    conversation: Conversation
    places: tuple[Path | None, ...]
    """Of each part in order: where its text stands, as it is, in the JSON value; None where it was made of others."""


class Turns:
    """Collects turns."""

    def __init__(self) -> None:
        self._turns: list[Turn] = []
        self._parts: list[Part] = []
        self._places: list[Path | None] = []

    def part(self, kind: PartKind, text: str, place: Path | None = None) -> None:
        """Of the turn that `end` ends. Raises `ConversationError` for what UTF-8 cannot express."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            # A tokenizer would replace it, and what was trained on would not be what was written.
            raise ConversationError(
                f"{shown(place) if place else kind} holds {text[error.start]!a}, half a character"
            ) from None
        self._parts.append(Part(kind, text))
        self._places.append(place)

    def end(self, role: Role, *, learned: bool = True) -> None:
        """Make the parts so far a turn."""
        self._turns.append(Turn(role, tuple(self._parts), learned))
        self._parts = []

    def found(self) -> Found:
        """Raises `ConversationError` where there is not a single turn."""
        if not self._turns:
            raise ConversationError("there is no turn in it")
        return Found(Conversation(tuple(self._turns)), tuple(self._places))


def shown(path: Path) -> str:
    """``messages[2].content``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def value_at(value: Any, path: Path) -> Any:
    """What stands at ``path`` in ``value``."""
    for step in path:
        value = value[step]
    return value


def put_at(value: Any, path: Path, new: Any) -> None:
    """Make ``new`` stand at ``path`` in ``value``."""
    value_at(value, path[:-1])[path[-1]] = new


def text_of(value: Mapping[str, Any], key: str, path: Path) -> str:
    """Raises `ConversationError` where there is no text."""
    if key not in value:
        raise ConversationError(f"{shown((*path, key))} is missing")
    return as_text(value[key], (*path, key))


def as_text(value: Any, path: Path) -> str:
    """``value``, which is text. Raises `ConversationError`."""
    if not isinstance(value, str):
        raise ConversationError(f"{shown(path)} must be text, got {kind_of(value)}")
    return value


def object_of(value: Any, path: Path) -> dict[str, Any]:
    """``value``, which is an object. Raises `ConversationError`."""
    if not isinstance(value, dict):
        raise ConversationError(f"{shown(path) or 'the line'} must be an object, got {kind_of(value)}")
    return value


def list_of(value: Mapping[str, Any], key: str, path: Path = ()) -> list[Any]:
    """Raises `ConversationError` where there is no list."""
    if not isinstance(value.get(key), list):
        found = f"got {kind_of(value[key])}" if key in value else "it is missing"
        raise ConversationError(f"{shown((*path, key))} must be a list, {found}")
    found_list: list[Any] = value[key]
    return found_list


def kind_of(value: Any) -> str:
    """What JSON calls it."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def weight_of(message: Mapping[str, Any], path: Path) -> bool:
    """Whether a message is to be learned: OpenAI's ``weight``, 0 or 1. Raises `ConversationError`."""
    weight = message.get("weight", 1)
    if isinstance(weight, bool) or weight not in (0, 1):
        raise ConversationError(f"{shown((*path, 'weight'))} must be 0 or 1, got {weight!r}")
    return bool(weight)
