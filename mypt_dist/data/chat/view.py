"""Conversations with what is learned of them, for people."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mypt_dist.data.manifest import SPLITS, DatasetManifest
from mypt_dist.data.progress import BytesDone
from mypt_dist.data.rewrite.blocks import Block, dataset_blocks
from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring tokens that are treated alike."""

    text: str
    learned: bool
    weight: float
    is_control: bool
    """Control tokens, by name. Text that only looks like one is none."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A conversation, or another document with a mask."""

    title: str
    runs: tuple[Run, ...]


def shown_conversations(folder: Path, count: int) -> list[Shown]:
    """The first ``count`` of the dataset in ``folder``. Raises `ConfigError` where it has no mask, `DataError`."""
    manifest = DatasetManifest.read(folder)
    if "mask" not in manifest.companions:
        raise ConfigError(f"{folder} has no mask: every token of it is learned")
    tokenizer, found = manifest.load_tokenizer(), list[Shown]()
    for split in SPLITS:
        for number, block in enumerate(_documents(folder, manifest, split)):
            if len(found) == count:
                return found
            learned = int(np.count_nonzero(block.companions["mask"]))
            title = f"{split} {number + 1}: {len(block):,} tokens, {learned:,} learned"
            found.append(Shown(title, tuple(_runs(block, tokenizer))))
    return found


def as_page(conversations: Sequence[Shown], title: str) -> str:
    """An HTML page that needs nothing else."""
    bodies = "\n".join(
        f"<h2>{html.escape(shown.title)}</h2>\n<pre>{''.join(map(_span, shown.runs))}</pre>" for shown in conversations
    )
    return _PAGE.format(title=html.escape(title), bodies=bodies)


def _documents(folder: Path, manifest: DatasetManifest, split: str) -> Iterator[Block]:
    """By their segments, without padding; what has none is one document."""
    for block in dataset_blocks(folder, manifest, split, BytesDone(0)):
        segments = block.companions.get("segments", np.ones(len(block), np.uint8))
        borders = [0, *(np.flatnonzero(segments[1:] != segments[:-1]) + 1).tolist(), len(block)]
        for begin, end in pairwise(borders):
            if segments[begin]:
                yield block[begin:end]


def _runs(block: Block, tokenizer: Tokenizer) -> Iterator[Run]:
    special = np.isin(block.tokens, list(tokenizer.specials.values()))
    mask = block.companions["mask"] != 0
    weights: Any = block.companions.get("weights", mask.astype(np.float32))
    changes = (special[1:] != special[:-1]) | (mask[1:] != mask[:-1]) | (weights[1:] != weights[:-1])
    borders = [0, *(np.flatnonzero(changes) + 1).tolist(), len(block)]
    for begin, end in pairwise(borders):
        text = tokenizer.decode(block.tokens[begin:end].tolist())
        yield Run(text, bool(mask[begin]), float(weights[begin]), bool(special[begin]))


def _span(run: Run) -> str:
    names = " ".join([*(["l"] if run.learned else []), *(["c"] if run.is_control else [])])
    weight = f' title="weight {run.weight:g}"' if run.learned and run.weight != 1 else ""
    return f'<span class="{names}"{weight}>{html.escape(run.text)}</span>'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; color: #222; background: #fff }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid #ccc; padding: 1em }}
.l {{ background: #b7ebc0 }}
.c {{ color: #06c; font-weight: bold }}
</style></head><body><h1>{title}</h1>
<p><span class="l">learned</span>, only seen, <span class="c">control token</span></p>
{bodies}
</body></html>
"""
