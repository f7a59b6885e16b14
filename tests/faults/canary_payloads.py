"""Content that executes, or exhausts, whoever reads it carelessly. What executes makes a file called ``canary``."""

import io
import json
import marshal
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from counted import SOAK


class Touch:
    """Unpickling it runs a command."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, (f"touch {self._canary}",)


def whole_files(canary: Path) -> dict[str, bytes]:
    """Payloads that stand in the place of a whole file."""
    command = f"touch {canary}"
    texts = {
        "yaml apply": f'!!python/object/apply:os.system ["{command}"]\n',
        "yaml apply in a key": f'model: {{type: !!python/object/apply:os.system ["{command}"]}}\n',
        "yaml new": f'!!python/object/new:os.system ["{command}"]\n',
        "yaml module": "!!python/module:mypt_dist.does_not_exist\n",
        "yaml name": "name: !!python/name:os.system\n",
        "yaml tuple": "!!python/tuple [1, 2]\n",
        "yaml aliases": _billion_laughs(),
        "yaml aliases in a value": f"{_billion_laughs()}name: *a11\ntrain: *a11\n",
        "yaml alias of itself": "name: &a [*a]\n",
        "yaml huge number": "train: {steps: " + "9" * 300 + "}\n",
        "yaml float": "train: {steps: .inf}\n",
        "yaml deep": "[" * 5000 + "]" * 5000,
        "yaml merge of itself": "a: &a {<<: *a}\n",
        "yaml binary": "name: !!binary gASV\n",
        "json deep": '{"a":' * 100_000 + "1" + "}" * 100_000,
        "json deep list": "[" * 200_000,
        "json twice": '{"name": "a", "name": "b", "format": 1, "format": 2}',
        "json NaN": '{"format": NaN, "train": {"steps": NaN}}',
        "json Infinity": '{"format": -Infinity}',
        "json overflow": '{"format": 1e999, "step": 1e999}',
        "json huge number": '{"format": ' + "9" * 10_000 + "}",
        "json object hook": json.dumps({"py/reduce": [{"py/function": "os.system"}, {"py/tuple": [command]}]}),
        "json class": json.dumps({"__class__": "os.system", "__reduce__": [command], "format": 1}),
        "json surrogate": '{"\\ud800": "\\udfff"}',
        "json half": '{"format": 1, "name": "',
        "a list": "[1, 2, 3]",
        "a number": "7",
        "null": "null",
        "python": f"import os; os.system({command!r})",
        "shell": f"#!/bin/sh\n{command}\n",
        "nothing": "",
    }
    return {**{name: text.encode() for name, text in texts.items()}, **_binary(canary)}


def values(canary: Path) -> dict[str, Any]:
    """Payloads that stand in the place of one value of a valid file."""
    command = f"touch {canary}"
    return {
        "python": f"__import__('os').system({command!r})",
        "shell": f"$({command}); `{command}` | {command}",
        "tag": f"!!python/object/apply:os.system [{command!r}]",
        "pickle": pickle.dumps(Touch(canary), 0).decode("ascii"),
        "template": "${oc.env:HOME} {{''.__class__.__mro__[1].__subclasses__()}} %(x)s {0.__class__}",
        "path": "../../../../../../etc/passwd",
        "surrogate": "\ud800",
        "null byte": "a\x00b",
        "object": {"__reduce__": ["os.system", command], "type": "os.system", "py/object": "os.system"},
        "list": [[[[command]]]],
        "huge": 10**300,
        "negative": -1,
        "null": None,
        "text": "a" * 100_000,
    }


def with_values(content: dict[str, Any], canary: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """``content`` with each of its values, two levels deep, replaced by each of `values`; by some, if in haste."""
    all_values = list(values(canary).items())
    places = [(key, inner) for key, below in content.items() for inner in ("", *(below if _is_object(below) else ()))]
    for number, (key, inner) in enumerate(places):
        # Taken in turn, so that every payload stands somewhere in every file.
        chosen = all_values if SOAK else [all_values[(5 * number + i) % len(all_values)] for i in range(5)]
        for name, value in chosen:
            changed = {**content[key], inner: value} if inner else value
            yield f"{key}{'.' if inner else ''}{inner} = {name}", {**content, key: changed}


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _binary(canary: Path) -> dict[str, bytes]:
    touch = Touch(canary)
    array = io.BytesIO()
    np.save(array, np.array([touch], dtype=object), allow_pickle=True)
    torch_file = io.BytesIO()
    with zipfile.ZipFile(torch_file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(touch, 2))
        archive.writestr("archive/version", "3\n")
    code = compile(f"import os; os.system('touch {canary}')", "payload", "exec")
    header = b'{"__metadata__": {"format": "pt"}, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    return {
        **{f"pickle {protocol}": pickle.dumps(touch, protocol) for protocol in range(6)},
        "numpy objects": array.getvalue(),
        "torch file": torch_file.getvalue(),
        "marshalled code": marshal.dumps(code),
        "zeros": bytes(4096),
        "utf-16": '{"format": 1}'.encode("utf-16"),
        "safetensors of one": len(header).to_bytes(8, "little") + header + bytes(4),
        "safetensors too long": (1 << 62).to_bytes(8, "little") + header,
        "safetensors deep": (200_000).to_bytes(8, "little") + b"[" * 200_000,
    }


def _billion_laughs() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    return "\n".join(lines) + "\n"
