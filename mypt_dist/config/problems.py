"""What is wrong with a file, one line a problem: dotted key, what is wrong, what would be right."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


def problems(schema: type[BaseModel], error: ValidationError) -> list[str]:
    """Every problem of ``error``, as indented lines."""
    return [f"  {_dotted(schema, item)}{_explain(schema, item)}" for item in error.errors()]


def near_miss(word: str, known: Iterable[str]) -> str:
    """``, did you mean 'steps'?`` or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _explain(schema: type[BaseModel], item: ErrorDetails) -> str:
    match item["type"]:
        case "extra_forbidden":
            *parents, last = item["loc"]
            known = sorted({name for part in _at(schema, tuple(parents)) for name in part.model_fields})
            hint = near_miss(str(last), known) or f" (known: {', '.join(known)})"
            return f"unknown key{hint}"
        case "union_tag_invalid":
            tag, expected = str(item["ctx"]["tag"]), item["ctx"]["expected_tags"].replace("'", "")
            return f"there is no type {tag!r}{near_miss(tag, expected.split(', '))} (known: {expected})"
        case "union_tag_not_found":
            return "needs a 'type'"
        case "missing":
            return "is missing"
        case "value_error":
            return str(item["ctx"]["error"])
    return f"{item['msg'][0].lower()}{item['msg'][1:]}, got {_short(item['input'])}"


def _dotted(schema: type[BaseModel], item: ErrorDetails) -> str:
    """The key as it stands in the file: the tags of unions are no part of it."""
    keys: list[str] = []
    for depth, part in enumerate(item["loc"]):
        if depth and any(part == name for name in _tags(_annotation(schema, item["loc"][:depth]))):
            continue
        keys.append(str(part))
    return f"{'.'.join(keys)}: " if keys else ""


def _at(schema: type[BaseModel], loc: tuple[int | str, ...]) -> list[type[BaseModel]]:
    return list(_models(_annotation(schema, loc)))


def _annotation(schema: Any, loc: tuple[int | str, ...]) -> Any:
    """What stands at ``loc`` of a schema; a tag selects one member of a union."""
    current: Any = schema
    for part in loc:
        if get_origin(current) is dict:
            # A key of the user's own choice.
            current = get_args(current)[1]
            continue
        members = list(_models(current))
        tagged = [m for m in members if part in _tags(m)]
        fields = [m.model_fields[str(part)] for m in members if str(part) in m.model_fields]
        if tagged:
            current = tagged[0]
        elif fields and isinstance(part, str):
            current = fields[0].annotation
        elif not isinstance(part, int):
            current = None
    return current


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for inner in get_args(annotation):
            yield from _models(inner)


def _tags(annotation: Any) -> list[str]:
    fields = [model.model_fields.get("type") for model in _models(annotation)]
    return [str(field.default) for field in fields if field is not None]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
