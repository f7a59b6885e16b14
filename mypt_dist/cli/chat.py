"""``mypt chat``: a conversation with a trained model, in the terminal or line by line from a file."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mypt_dist.run.chat import Chat


def chat(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or one checkpoint.")],
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System text.")] = None,
    context: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Document for the whole conversation (repeatable).")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Sampling preset: chat, creative, factual, code or deterministic.")
    ] = "chat",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", metavar="N", help="Of an answer.")] = 256,
    seed: Annotated[int, typer.Option(metavar="S")] = 1337,
    template: Annotated[
        str | None, typer.Option(help="Template of conversations: a name or a JSON file. Default: the one it learned.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep a transcript in a new file there. Default: none is kept.")
    ] = None,
    redact: Annotated[
        list[str] | None,
        typer.Option(metavar="REGEX", help="Replace this in transcripts, besides secrets (repeatable)."),
    ] = None,
) -> None:
    """Talk with a model. /help lists the commands; Ctrl-C cuts an answer, Ctrl-D ends.

    Where the input is no terminal, each line of it is a question or a command, and the first that cannot be done ends
    with exit code 2. Transcripts are conversations in MyPT's format: they can be prepared as training data.
    """
    from mypt_dist.generation.sampling import sampling_from
    from mypt_dist.run.models import loaded

    sampling = sampling_from(preset, {"max_new_tokens": max_new_tokens, "seed": seed})
    learned = loaded(run)

    from mypt_dist.chat.session import Session
    from mypt_dist.run.chat import Chat, Transcripts, document, redactions, renderer_for

    documents = "\n\n".join(document(path) for path in context or []) or None
    renderer = renderer_for(learned.tokenizer, learned.template, template)
    session = Session(renderer, system=system, context=documents)
    about = {"model": str(learned.folder), "step": learned.step, "template": renderer.template.name}
    hooks = redactions(redact or [])
    transcripts = Transcripts(log, about, hooks) if log else None
    talk = Chat(learned.model, session, sampling, _say, _note, transcripts, about, hooks)
    if sys.stdin.isatty():
        _converse(talk)
    else:
        for line in sys.stdin:
            if not talk.hear(line.rstrip("\n")):
                break


def _converse(talk: "Chat") -> None:
    from mypt_dist.errors import MyptError

    with suppress(ImportError):
        # Arrow keys and a history for `input`.
        import readline  # noqa: F401

    for line in _typed():
        try:
            if not talk.hear(line):
                return
        except MyptError as error:
            _note(str(error))


def _typed() -> Iterator[str]:
    """What a person types, until Ctrl-D. A backslash at the end of a line goes on in the next."""
    while True:
        try:
            line = input("> ")
            while line.endswith("\\"):
                line = f"{line[:-1]}\n{input('  ')}"
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        yield line


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
