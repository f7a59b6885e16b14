"""``mypt tokenizer``: learn one from a text, and compare those there are."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mypt_dist.cli.tables import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from mypt_dist.data.comparison import Measured

app = typer.Typer(help="Learn a tokenizer from a text; compare tokenizers on one.", no_args_is_help=True)

Texts = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE...",
        help="Files, folders or globs of .txt .md .py .jsonl, each also .gz .bz2 .xz .zst; or stdlib.",
    ),
]
FieldOption = Annotated[str, typer.Option("--text-field", help="The field of a .jsonl line that holds the text.")]


@app.command()
def train(
    texts: Texts,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.json", help="Where the tokenizer goes.")],
    vocab_size: Annotated[
        int, typer.Option("--vocab-size", metavar="N", help="Ids, special tokens included: best a multiple of 64.")
    ] = 8192,
    text_field: FieldOption = "text",
    tiktoken: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the ranks as a file of tiktoken, too.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.json.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Learn byte pairs from a text, for mypt data prepare --tokenizer FILE.json.

    The same text gives the same file. Datasets and checkpoints carry the tokenizer; the file is for more of them.
    """
    from mypt_dist import log
    from mypt_dist.cli.progress import byte_progress
    from mypt_dist.data import durable
    from mypt_dist.data.prepare.corpus import Corpus
    from mypt_dist.tokenizers.learn import learn_bpe

    log.install()
    _check_free(out, overwrite)
    corpus = Corpus(texts, text_field)
    with byte_progress("reading") as progress:
        learned = learn_bpe(corpus.texts(progress), vocab_size)
    state = learned.state()
    durable.write_file(out, (json.dumps(state, indent=1) + "\n").encode())
    if tiktoken is not None:
        durable.write_file(tiktoken, learned.tiktoken_file())
    left_out = dict(corpus.problems.counts)
    if as_json:
        told = {"file": str(out), "vocab_size": learned.vocab_size, "base_vocab_size": state["base_vocab_size"]}
        print_json({**told, "fingerprint": learned.fingerprint, "left_out": left_out})
        return
    print(f"{out}: bpe, {learned.vocab_size:,} ids, {learned.fingerprint[:12]}")
    if left_out:
        print("left out: " + ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in left_out.items()))


@app.command()
def compare(
    texts: Texts,
    vocab_size: Annotated[
        list[int], typer.Option("--vocab-size", metavar="N", help="Of a BPE that is learned (repeatable).")
    ] = [4096, 16384],  # noqa: B006 - typer copies it
    tokenizer: Annotated[
        list[Path],
        typer.Option("--tokenizer", metavar="FILE|DIR", help="One more: of a file or a dataset (repeatable)."),
    ] = [],  # noqa: B006
    width: Annotated[int, typer.Option(metavar="E", min=1, help="Of the model, for the embedding.")] = 768,
    context: Annotated[int, typer.Option(metavar="T", min=1, help="Of the model, in tokens.")] = 1024,
    text_field: FieldOption = "text",
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the plot into a file.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write table and plot as a page.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare GPT-2's tokens, bytes, characters and byte pairs learned from the text itself.

    One tenth of the text is held out: nothing is learned from it, and everything is measured on it.
    """
    from mypt_dist import log
    from mypt_dist.cli.progress import byte_progress
    from mypt_dist.data.comparison import candidates, measured, parted
    from mypt_dist.data.foreign.tokenizer import named_tokenizer
    from mypt_dist.data.prepare.corpus import Corpus

    log.install()
    given = {str(path): named_tokenizer(str(path)).tokenizer for path in tokenizer}
    with byte_progress("reading") as progress:
        text = parted(Corpus(texts, text_field).texts(progress))
    rows = [measured(name, one, text.held_out) for name, one in candidates(text, vocab_size, given)]
    notes = _notes(text.whole, text.cut, rows)
    _draw(rows, (width, context), notes, svg, html)
    if as_json:
        print_json({"tokenizers": [row.to_json(width, context) for row in rows], "notes": notes})
        return
    from mypt_dist.cli.tokenizer_view import HEADER, bars, cells

    print(f"{rows[0].characters:,} characters, {rows[0].bytes:,} bytes, from which nothing was learned")
    print_table(HEADER, [cells(row, width, context) for row in rows])
    print("\n" + "\n".join(bars(rows)))
    print("".join(f"\n{note}" for note in notes), end="\n" if notes else "")


def _notes(whole: bool, cut: bool, rows: "list[Measured]") -> list[str]:
    found = []
    if whole:
        found.append("the text is so short that bpe and char are measured on what they were learned from")
    if cut:
        found.append("the text is longer than is compared: only its beginning was read")
    found += [f"{row.name}: {row.unknown:,} characters it does not know" for row in rows if row.unknown]
    return found


def _draw(
    rows: "list[Measured]", shape: tuple[int, int], notes: list[str], svg: Path | None, html: Path | None
) -> None:
    from mypt_dist.cli.tokenizer_view import page, plot
    from mypt_dist.data import durable

    if svg is not None:
        durable.write_file(svg, plot(rows).encode())
    if html is not None:
        durable.write_file(html, page(rows, *shape, notes).encode())


def _check_free(out: Path, overwrite: bool) -> None:
    from mypt_dist.errors import ConfigError

    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder: give a file, such as {out}/bpe.json")
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists; --overwrite replaces it")
