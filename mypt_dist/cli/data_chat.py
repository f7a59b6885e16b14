"""``mypt data prepare-chat`` and ``export-chat``, and what of conversations is learned, in colour."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mypt_dist.cli.data_output import Dataset, OverwriteOption, print_manifest
from mypt_dist.cli.tables import JsonOption, print_json
from mypt_dist.errors import ConfigError

if TYPE_CHECKING:
    from mypt_dist.data.chat import ChatReport

SHOWN = 3
"""Conversations, where nobody says how many."""


def prepare_chat(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Files, folders or globs of .jsonl, each also .gz .bz2 .xz .zst: a conversation a line, as MyPT, as "
            "messages of OpenAI and Hugging Face, or as ShareGPT.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the dataset.")],
    context: Annotated[int, typer.Option("--context", metavar="N", help="model.context of the runs that read it.")],
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer",
            metavar="NAME",
            help="gpt2, byte, char:TEXTFILE, mypt-2025-12, mypt-2026-03, a JSON file with a tokenizer's state, or a "
            "dataset with the same one.",
        ),
    ] = "gpt2",
    template: Annotated[
        str, typer.Option("--template", metavar="mypt|chatml|FILE", help="How conversations are laid out in tokens.")
    ] = "mypt",
    add_specials: Annotated[
        bool, typer.Option("--add-specials", help="Give the tokenizer control tokens that the template needs.")
    ] = False,
    format_: Annotated[
        str | None,
        typer.Option("--format", metavar="mypt|messages|sharegpt", help="Default: each line as it looks."),
    ] = None,
    weights: Annotated[
        list[str],
        typer.Option("--weights", metavar="KIND=W", help="Of the loss, by kind: think=0.5 toolcall=2. Repeatable."),
    ] = [],  # noqa: B006 - typer copies it
    too_long: Annotated[
        str,
        typer.Option(
            "--too-long", metavar="error|drop|truncate", help="What becomes of conversations longer than a row."
        ),
    ] = "error",
    allow_unlearned: Annotated[
        bool, typer.Option("--allow-unlearned", help="Keep conversations with nothing to learn.")
    ] = False,
    val_fraction: Annotated[float, typer.Option(help="Share held out, chosen by content.")] = 0.01,
    quarantine: Annotated[
        Path | None,
        typer.Option(
            "--quarantine", metavar="FILE", help="Put lines that cannot be used there, and why. Default: an error."
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn conversations into packed rows of tokens, of which the assistant's answers are learned."""
    from mypt_dist import log
    from mypt_dist.cli.progress import byte_progress
    from mypt_dist.config import validate
    from mypt_dist.data.chat import ChatSettings, prepare_chat

    log.install()
    said = {
        "context": context,
        "tokenizer": tokenizer,
        "template": template,
        "add_specials": add_specials,
        "format": format_,
        "weights": dict(_weight(text) for text in weights),
        "too_long": too_long,
        "allow_unlearned": allow_unlearned,
        "val_fraction": val_fraction,
        "quarantine": quarantine,
        "overwrite": overwrite,
    }
    settings = validate(ChatSettings, said, "mypt data prepare-chat")
    with byte_progress("tokenizing") as progress:
        report = prepare_chat(inputs, out, settings, progress)
    if as_json:
        print_json({**json.loads(report.manifest.to_bytes()), "rows": report.rows, "packed": report.packed})
        return
    print_manifest(report.manifest, str(out))
    _print_report(report, quarantine)


def export_chat(
    dataset: Dataset,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new .jsonl file.")],
) -> None:
    """Write the conversations of a dataset back to a file, each line with the value that it had."""
    from mypt_dist.cli.progress import byte_progress
    from mypt_dist.data.chat import export_conversations

    with byte_progress("writing") as progress:
        count = export_conversations(dataset, out, progress)
    print(f"{count:,} conversations: {out}")


def show_masks(folder: Path, count: int, html: Path | None) -> None:
    """Print ``count`` conversations, or write them to the page ``html``."""
    from mypt_dist.data.chat.view import as_page, shown_conversations
    from mypt_dist.data.prepare.writer import writing

    found = shown_conversations(folder, count)
    if html is None:
        from rich.console import Console

        from mypt_dist.cli.mask_view import as_text

        console = Console(highlight=False, soft_wrap=True)
        for conversation in found:
            console.print(as_text(conversation))
        return
    if html.exists():
        raise ConfigError(f"{html} exists already: choose another file")
    with writing(html):
        html.write_text(as_page(found, str(folder)), encoding="utf-8")
    print(f"{len(found)} conversations: {html}")


def _weight(text: str) -> tuple[str, float]:
    kind, _, number = text.partition("=")
    try:
        return kind, float(number)
    except ValueError:
        raise ConfigError(f"--weights {text}: must be KIND=NUMBER, such as think=0.5") from None


def _print_report(report: "ChatReport", quarantine: Path | None) -> None:
    chat = report.manifest.conversations
    assert chat is not None, "made of conversations"
    tokens = sum(report.manifest.split(name).tokens for name in report.rows)
    rows = ", ".join(f"{count:,} {name}" for name, count in report.rows.items() if count)
    print(
        f"rows of {report.manifest.row_length:,} tokens: {rows}; {100 * report.packed:.1f}% of positions used, "
        f"{100 * (1 - report.packed):.1f}% padding; {chat.counts.learned:,} tokens learned "
        f"({100 * chat.counts.learned / max(1, tokens):.1f}%)"
    )
    told = {
        "bad": "lines bad",
        "unlearned": "conversations with nothing to learn",
        "dropped": "conversations too long, dropped",
        "truncated": "conversations too long, cut",
    }
    found = [f"{count:,} {text}" for key, text in told.items() if (count := getattr(chat.counts, key))]
    if found:
        print(", ".join(found) + (f"; see {quarantine}" if quarantine else ""))
