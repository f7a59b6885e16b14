"""``mypt data stats``, ``diff`` and ``lineage``: looks at datasets that change nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mypt_dist.cli.data_output import AnyDataset, Dataset, fetched
from mypt_dist.cli.tables import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from rich.tree import Tree

    from mypt_dist.data.diff import DatasetDiff
    from mypt_dist.data.lineage import Node
    from mypt_dist.data.stats import SplitStats

BAR = 50
"""Characters of the longest bar."""


def stats(
    dataset: AnyDataset,
    frequent: Annotated[int, typer.Option(help="How many of the most frequent tokens to show.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Count documents, their lengths, and tokens. Reads everything."""
    from mypt_dist.cli.progress import byte_progress
    from mypt_dist.data.stats import dataset_stats

    with fetched(dataset) as folder, byte_progress("counting") as progress:
        found = dataset_stats(folder, frequent, progress)
    if as_json:
        print_json(found.to_json())
        return
    rows = [
        [
            name,
            f"{split.documents:,}",
            f"{split.tokens:,}",
            f"{split.learned:,}",
            f"{split.bytes:,}",
            *_bytes_each(split),
        ]
        for name, split in found.splits.items()
    ]
    print_table(["split", "documents", "tokens", "learned", "text bytes", "bytes a token"], rows)
    print(f"{found.distinct:,} of {found.vocab_size:,} ids stand in it")
    for name, split in found.splits.items():
        if split.lengths:
            median, longest = split.lengths.median, split.lengths.max
            print(f"\n{name}: tokens a document (median {median:,}, longest {longest:,})")
            _draw(split.lengths.histogram)
    total = max(1, sum(split.tokens for split in found.splits.values()))
    print()
    print_table(
        ["id", "token", "count", "share"],
        [
            [str(token.id), repr(token.text), f"{token.count:,}", f"{100 * token.count / total:.2f}%"]
            for token in found.frequent
        ],
    )


def diff(
    left: Annotated[Path, typer.Argument(metavar="A", help="A dataset.")],
    right: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    as_json: JsonOption = False,
) -> None:
    """Show how two datasets differ: settings, tokenizer, shards, and the first token."""
    from mypt_dist.data.diff import diff_datasets

    found = diff_datasets(left, right)
    if as_json:
        print_json(found.to_json())
        return
    if found.is_equal:
        print(f"the same content: {found.fingerprint[0]}")
    else:
        print_table(["", str(left), str(right)], [["fingerprint", *(text[:16] for text in found.fingerprint)]])
    if found.facts:
        print_table(
            ["differs", "left", "right"],
            [[key, *(_shown(value) for value in both)] for key, both in found.facts.items()],
        )
    if not found.is_equal:
        _print_content(found)


def lineage(dataset: Dataset, as_json: JsonOption = False) -> None:
    """Draw what a dataset was made of: inputs, tools, settings, and the datasets before it."""
    from mypt_dist.data.lineage import lineage_tree
    from mypt_dist.data.manifest import DatasetManifest

    node = lineage_tree(dataset, DatasetManifest.read(dataset))
    if as_json:
        print_json(node.to_json())
        return
    from rich.console import Console

    # Never cut to the terminal, so that it can be piped; paths are text and not markup.
    Console(width=10_000, markup=False, highlight=False).print(_drawn(node))


def _bytes_each(split: "SplitStats") -> list[str]:
    return [f"{split.bytes / split.tokens:.2f}" if split.tokens else "-"]


def _draw(histogram: Sequence[tuple[int, int]]) -> None:
    most = max(count for _, count in histogram)
    rows = [(f"{bound // 2:,} to {bound - 1:,}" if bound > 1 else "0", count) for bound, count in histogram]
    width, digits = max(len(name) for name, _ in rows), max(len(f"{count:,}") for _, count in rows)
    for name, count in rows:
        bar = "█" * (BAR * count // most) or "▏"
        print(f"  {name.rjust(width)}  {f'{count:,}'.rjust(digits)}  {bar}")


def _shown(value: object) -> str:
    text = "-" if value is None or value == "" else str(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else text[:40]


def _print_content(found: "DatasetDiff") -> None:
    for split, (left, right, same) in found.shards.items():
        print(f"{split}: {left} and {right} shards, {same} of them the same")
    for first in found.tokens:
        print(f"{first.split}: the first token that differs is number {first.position:,}")
        for side, token, text in (("left", first.left_id, first.left), ("right", first.right_id, first.right)):
            print(f"  {side:5}  {'(ended)' if token is None else token}  {text!r}")
    if not found.tokens:
        print(
            "every token is the same; what differs is how they are cut into shards, their tokenizer or what is beside"
        )


def _drawn(node: "Node") -> "Tree":
    from rich.tree import Tree

    tree = Tree(f"{node.path}  {node.fingerprint[:16]}  {node.made_by}{_versions(node.tools)}")
    settings = ", ".join(f"{key}={value}" for key, value in node.settings.items())
    if settings:
        tree.add(f"settings: {settings}")
    for source in node.sources:
        content = f"  sha256 {source.sha256[:16]}" if source.sha256 else ""
        tree.add(f"input: {source.path}  {source.files:,} files, {source.documents:,} documents{content}")
    for parent in node.parents:
        tree.add(_drawn(parent))
    if node.is_cut:
        tree.add("… (what it was made of is shown elsewhere, or lies too deep)")
    return tree


def _versions(tools: Mapping[str, str]) -> str:
    return " by " + ", ".join(f"{name} {version}" for name, version in tools.items()) if tools else ""
