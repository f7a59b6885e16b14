"""How are conversations written in files? Three formats, told apart by what they hold."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, get_args

from mypt_dist.chat.conversation import PartKind, Role, spelled, spelled_call
from mypt_dist.chat.reading import (
    ConversationError,
    Found,
    Path,
    Turns,
    as_text,
    kind_of,
    list_of,
    object_of,
    shown,
    text_of,
    weight_of,
)

FormatName: TypeAlias = Literal["mypt", "messages", "sharegpt"]
"""``mypt``: MyPT's, with a system text, a context and messages. ``messages``: of OpenAI and Hugging Face. ``sharegpt``:
``conversations`` of ``from`` and ``value``."""
FORMATS: tuple[FormatName, ...] = get_args(FormatName)

MYPT_ROLES = ("user", "assistant", "assistant_toolcall", "toolresult")
OWN_ROLES = {"assistant_toolcall", "toolresult"}
OWN_KEYS = {"context", "think", "cite"}
"""Of messages: nobody else's."""
MESSAGES_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "toolresult",
}
SHAREGPT_ROLES: Mapping[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "toolresult",
    "function_response": "toolresult",
    "tool_response": "toolresult",
    "tool": "toolresult",
}
CALLS = ("function_call", "tool_call")
"""Speakers of ShareGPT that call a tool."""


def read_conversation(value: Any, format_: FormatName | None = None) -> tuple[FormatName, Found]:
    """The conversation in a JSON value, and the format it is in; None: the one it looks like.

    Raises `ConversationError` saying what is wrong and where.
    """
    named = format_ or recognised(object_of(value, ()))
    return named, _READERS[named](object_of(value, ()))


def recognised(value: Mapping[str, Any]) -> FormatName:
    """The format that a JSON value looks like. Raises `ConversationError`."""
    if "conversations" in value:
        return "sharegpt"
    if "messages" not in value:
        keys = ", ".join(map(repr, list(value)[:5])) or "nothing"
        raise ConversationError(f"it has neither 'messages' nor 'conversations' ({keys}): it is no conversation")
    if "system" in value or "context" in value:
        return "mypt"
    listed = value["messages"] if _is_list(value["messages"]) else []
    messages = [message for message in listed if isinstance(message, dict)]
    roles = {message["role"] for message in messages if isinstance(message.get("role"), str)}
    if roles & OWN_ROLES:
        return "mypt"
    is_plain = roles <= {"user", "assistant"}
    return "mypt" if is_plain and any(OWN_KEYS & message.keys() for message in messages) else "messages"


def _mypt(value: Mapping[str, Any]) -> Found:
    turns = Turns()
    sections: tuple[tuple[Role, str], ...] = (("system", "system"), ("context", "context"))
    for role, key in sections:
        if value.get(key) is not None:
            turns.part("text", text_of(value, key, ()), (key,))
            turns.end(role)
    for number, raw in enumerate(list_of(value, "messages")):
        path: Path = ("messages", number)
        message = object_of(raw, path)
        match _known(message, "role", path, MYPT_ROLES):
            case "user":
                if message.get("context") is not None:
                    turns.part("text", text_of(message, "context", path), (*path, "context"))
                    turns.end("context")
                turns.part("text", text_of(message, "content", path), (*path, "content"))
                turns.end("user")
            case "assistant":
                _optional(turns, "think", message, "think", path)
                turns.part("text", text_of(message, "content", path), (*path, "content"))
                _optional(turns, "cite", message, "cite", path)
                turns.end("assistant", learned=weight_of(message, path))
            case "assistant_toolcall":
                _optional(turns, "think", message, "think", path)
                turns.part("toolcall", _call(message, path))
                turns.end("assistant", learned=weight_of(message, path))
            case _:
                _result(turns, message, "content", path)
    return turns.found()


def _messages(value: Mapping[str, Any]) -> Found:
    turns = Turns()
    tools = value.get("tools") or None
    messages = list_of(value, "messages")
    for number, raw in enumerate(messages):
        path: Path = ("messages", number)
        message = object_of(raw, path)
        role = MESSAGES_ROLES[_known(message, "role", path, MESSAGES_ROLES)]
        if tools is not None and (number > 0 or role != "system"):
            _tools(turns, tools)
            tools = None
        if role == "assistant":
            _assistant(turns, message, path)
        else:
            _content(turns, message, path)
            turns.end(role)
    if tools is not None:
        _tools(turns, tools)
    return turns.found()


def _sharegpt(value: Mapping[str, Any]) -> Found:
    turns = Turns()
    if value.get("system") is not None:
        turns.part("text", text_of(value, "system", ()), ("system",))
        turns.end("system")
    if value.get("tools"):
        _tools(turns, value["tools"])
    for number, raw in enumerate(list_of(value, "conversations")):
        path: Path = ("conversations", number)
        message = object_of(raw, path)
        speaker = _known(message, "from", path, SHAREGPT_ROLES)
        kind: PartKind = "toolcall" if speaker in CALLS else "text"
        turns.part(kind, text_of(message, "value", path), (*path, "value"))
        turns.end(SHAREGPT_ROLES[speaker], learned=weight_of(message, path))
    return turns.found()


def _assistant(turns: Turns, message: Mapping[str, Any], path: Path) -> None:
    _optional(turns, "think", message, "reasoning_content", path)
    calls = message.get("tool_calls") or []
    if message.get("content") is not None or not calls:
        _content(turns, message, path)
    for number, raw in enumerate(calls if _is_list(calls) else [calls]):
        place = (*path, "tool_calls", number)
        call = object_of(raw, place)
        # Some files leave out the level that only says that it is a function.
        inner = "function" in call
        turns.part("toolcall", _call(object_of(call["function"], (*place, "function")) if inner else call, place))
    turns.end("assistant", learned=weight_of(message, path))


def _content(turns: Turns, message: Mapping[str, Any], path: Path) -> None:
    content, place = message.get("content"), (*path, "content")
    if not _is_list(content):
        turns.part("text", text_of(message, "content", path), place)
        return
    assert isinstance(content, list)
    texts = []
    for number, raw in enumerate(content):
        item = object_of(raw, (*place, number))
        if item.get("type") != "text":
            raise ConversationError(f"{shown((*place, number))}.type is {item.get('type')!r}: only text can be learned")
        texts.append(text_of(item, "text", (*place, number)))
    turns.part("text", "".join(texts), (*place, 0, "text") if len(texts) == 1 else None)


def _optional(turns: Turns, kind: PartKind, message: Mapping[str, Any], key: str, path: Path) -> None:
    if message.get(key) is not None:
        turns.part(kind, as_text(message[key], (*path, key)), (*path, key))


def _result(turns: Turns, message: Mapping[str, Any], key: str, path: Path) -> None:
    """A tool may answer with any value."""
    if key not in message:
        raise ConversationError(f"{shown((*path, key))} is missing")
    content = message[key]
    turns.part("text", *((content, (*path, key)) if isinstance(content, str) else (spelled(content), None)))
    turns.end("toolresult")


def _tools(turns: Turns, tools: Any) -> None:
    """What tools there are, as a system turn of its own behind the system text."""
    turns.part("text", tools if isinstance(tools, str) else spelled(tools))
    turns.end("system")


def _call(call: Mapping[str, Any], path: Path) -> str:
    name = text_of(call, "name", path)
    if "arguments" not in call:
        raise ConversationError(f"{shown((*path, 'arguments'))} is missing")
    arguments = call["arguments"]
    if isinstance(arguments, str):
        try:
            json.loads(arguments)
        except ValueError as error:
            raise ConversationError(f"{shown((*path, 'arguments'))} is text, but not JSON: {error}") from None
    return spelled_call(name, arguments)


def _known(message: Mapping[str, Any], key: str, path: Path, known: "Mapping[str, Role] | tuple[str, ...]") -> str:
    found = text_of(message, key, path)
    if found not in known:
        raise ConversationError(f"{shown((*path, key))} is {found!r}, known are {', '.join(known)}")
    return found


def _is_list(value: Any) -> bool:
    return kind_of(value) == "a list"


_READERS: Mapping[FormatName, Callable[[Mapping[str, Any]], Found]] = {
    "mypt": _mypt,
    "messages": _messages,
    "sharegpt": _sharegpt,
}
