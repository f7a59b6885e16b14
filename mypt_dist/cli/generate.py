"""``mypt generate``: text from a trained model."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def generate(
    run: Annotated[Path, typer.Option("--run", metavar="DIR", help="A run's folder, or one checkpoint.")],
    prompt: Annotated[list[str], typer.Option("--prompt", help="Text to continue (repeatable: a batch).")],
    preset: Annotated[
        str | None, typer.Option(help="Sampling preset: chat, creative, factual, code or deterministic.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", metavar="N")] = None,
    temperature: Annotated[float | None, typer.Option(metavar="T", help="0 takes the likeliest token.")] = None,
    top_k: Annotated[int | None, typer.Option(metavar="K", help="Sample among the K likeliest; 0: among all.")] = None,
    top_p: Annotated[float | None, typer.Option(metavar="P", help="... and among the likeliest with mass P.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(metavar="R", help="1: none.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Special token that ends the text (repeatable).")] = None,
    seed: Annotated[int | None, typer.Option(metavar="S")] = None,
) -> None:
    """Continue one or several prompts. A single prompt is streamed, token by token."""
    from mypt_dist.generation.sampling import sampling_from
    from mypt_dist.run.models import load_for_generation

    given = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "stop": stop,
    }
    sampling = sampling_from(preset, {key: value for key, value in given.items() if value is not None})
    model, tokenizer = load_for_generation(run)

    from mypt_dist.generation import generate_text

    if len(prompt) == 1:
        print(prompt[0], end="", flush=True)
        generate_text(model, tokenizer, prompt, sampling, on_text=_stream)
        print()
        return
    for number, (start, text) in enumerate(zip(prompt, generate_text(model, tokenizer, prompt, sampling), strict=True)):
        print(f"--- {number}\n{start}{text}")


def _stream(row: int, text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
