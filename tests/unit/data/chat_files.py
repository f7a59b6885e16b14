"""Small files of conversations."""

import json
import random
from pathlib import Path
from typing import Any

from mypt_dist.data.chat import ChatReport, ChatSettings, prepare_chat

WORDS = "a bee can dance every fine green hill".split()  # noqa: SIM905


def conversations(count: int, seed: int = 0, longest: int = 12) -> list[dict[str, Any]]:
    """Of one to three rounds each, with answers of one to ``longest`` words."""
    rng = random.Random(seed)

    def said(most: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))

    found = []
    for number in range(count):
        messages = []
        for _ in range(rng.randint(1, 3)):
            messages += [
                {"role": "user", "content": f"{number} {said(4)}"},
                {"role": "assistant", "content": said(longest)},
            ]
        found.append({"messages": messages})
    return found


def written(path: Path, values: list[Any]) -> Path:
    """One a line; text as it is."""
    lines = (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def prepared(folder: Path, values: list[Any], name: str = "chat", **settings: Any) -> ChatReport:
    """``values`` as the dataset ``folder``/``name``, in bytes unless said otherwise."""
    chosen = ChatSettings.model_validate({"context": 255, "tokenizer": "byte", "val_fraction": 0.0, **settings})
    return prepare_chat([written(folder / f"{name}.jsonl", values)], folder / name, chosen)
