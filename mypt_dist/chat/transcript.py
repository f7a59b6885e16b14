"""A session as a line of MyPT's format: what `read_conversation` reads back, and so what can be trained on."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from mypt_dist.chat.answer import Answer
from mypt_dist.chat.session import Session

Redact: TypeAlias = Callable[[str], str]
"""Takes out of a text what is not to be kept."""

ORDERS = [["text"], ["think", "text"], ["text", "cite"], ["think", "text", "cite"]]
"""Parts of an answer that the format can say in their order."""


def transcript(session: Session, redact: Sequence[Redact] = ()) -> dict[str, Any]:
    """The conversation of ``session``, every text of it through each of ``redact``. Unanswered questions are left out.

    Answers that were cut or are malformed have weight 0: they stay in the history and are not learned.
    """

    def kept(text: str) -> str:
        for hook in redact:
            text = hook(text)
        return text

    head = {"system": session.system, "context": session.context}
    said = {key: kept(text) for key, text in head.items() if text}
    messages: list[dict[str, Any]] = []
    for exchange in session.exchanges:
        if exchange.answer is None:
            continue
        question = {"role": "user", "content": kept(exchange.question)}
        if exchange.context is not None:
            question["context"] = kept(exchange.context)
        messages += [question, _message(exchange.answer, kept)]
    return {**said, "messages": messages}


def _message(answer: Answer, kept: Redact) -> dict[str, Any]:
    kinds, said = [part.kind for part in answer.turn.parts], {part.kind: kept(part.text) for part in answer.turn.parts}
    weight = {} if answer.turn.learned else {"weight": 0}
    think = {"think": said["think"]} if "think" in said else {}
    call = _call(said["toolcall"]) if kinds in (["toolcall"], ["think", "toolcall"]) else None
    if call is not None:
        return {"role": "assistant_toolcall", **call, **think, **weight}
    if kinds in ORDERS:
        cite = {"cite": said["cite"]} if "cite" in said else {}
        return {"role": "assistant", "content": said["text"], **think, **cite, **weight}
    # The format has no place for it: kept as what was said, and not learned.
    return {"role": "assistant", "content": "".join(kept(part.text) for part in answer.turn.parts), "weight": 0}


def _call(text: str) -> dict[str, Any] | None:
    try:
        call = json.loads(text)
    except ValueError:
        return None
    is_call = isinstance(call, dict) and isinstance(call.get("name"), str) and "arguments" in call
    return {"name": call["name"], "arguments": call["arguments"]} if is_call else None
