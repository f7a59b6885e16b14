"""``mypt params``: how many parameters a model has, by which formula, and whether that is the right size."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mypt_dist.cli.tables import JsonOption, print_json
from mypt_dist.cli.train import Overrides

if TYPE_CHECKING:
    from mypt_dist.run.sizes import Budget
    from mypt_dist.tokenizers import Tokenizer


def params(
    run_file: Annotated[
        str | None,
        typer.Argument(metavar="[RUNFILE]", help="A preset or a run file. Without one the flags say it all."),
    ] = None,
    overrides: Overrides = None,
    architecture: Annotated[str | None, typer.Option("--type", metavar="gpt|llama", help="model.type.")] = None,
    layers: Annotated[int | None, typer.Option(metavar="L", help="model.n_layer.")] = None,
    heads: Annotated[int | None, typer.Option(metavar="H", help="model.n_head.")] = None,
    width: Annotated[int | None, typer.Option(metavar="E", help="model.n_embd.")] = None,
    context: Annotated[int | None, typer.Option(metavar="T", help="model.context.")] = None,
    vocab_size: Annotated[int | None, typer.Option("--vocab-size", metavar="V", help="model.vocab_size.")] = None,
    tie: Annotated[
        bool | None, typer.Option("--tied/--untied", help="model.tie_embeddings.", show_default=False)
    ] = None,
    tokenizer: Annotated[
        list[Path],
        typer.Option("--tokenizer", metavar="FILE|DIR", help="Of a file or a dataset, as one more row (repeatable)."),
    ] = [],  # noqa: B006 - typer copies it
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A text whose characters are a tokenizer: one more row.")
    ] = None,
    tokens: Annotated[float | None, typer.Option(metavar="N", help="A budget: what size do N tokens ask for?")] = None,
    flops: Annotated[float | None, typer.Option(metavar="X", help="A budget of computation, such as 1e19.")] = None,
    hours: Annotated[float | None, typer.Option(metavar="H", help="A budget of time, with --gpu or a rate.")] = None,
    gpu: Annotated[str | None, typer.Option(metavar="NAME", help="H100, A100, ...")] = None,
    gpus: Annotated[int, typer.Option(min=1, help="How many of them.")] = 1,
    mfu: Annotated[float, typer.Option(metavar="SHARE", min=0.01, max=1, help="Of the GPU's peak.")] = 0.4,
    tokens_per_second: Annotated[float | None, typer.Option(metavar="N", help="The rate, as measured.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Count a model's parameters by part and by tokenizer, with the formula filled in; builds nothing.

    With a budget of tokens, computation or time: which size scaling laws advise for it.
    """
    from mypt_dist.run.sizes import advise, model_sizes

    named, settings = _named(run_file, overrides or [])
    flags = {
        "type": architecture,
        "n_layer": layers,
        "n_head": heads,
        "n_embd": width,
        "context": context,
        "vocab_size": vocab_size,
        "tie_embeddings": tie,
    }
    changes = {key: value for key, value in flags.items() if value is not None}
    sizes = model_sizes(named, settings, changes, _tokenizers(tokenizer, text))
    budget = _budget(tokens, flops, _time(hours, gpu, gpus, mfu, tokens_per_second))
    advice = advise(sizes, budget) if budget else None
    if as_json:
        print_json({**sizes.to_json(), "advice": advice.to_json() if advice else None})
        return
    from mypt_dist.cli.params_view import advice_lines, sizes_lines

    print("\n".join(sizes_lines(sizes)))
    if advice:
        print("\n".join(["", *advice_lines(advice)]))


def _named(run_file: str | None, overrides: list[str]) -> tuple[str | None, list[str]]:
    """A first argument that is a setting is no file."""
    from mypt_dist.errors import ConfigError

    if run_file is not None and "=" in run_file and not Path(run_file).is_file():
        raise ConfigError(f"{run_file}: settings change a preset or run file: name it first, or use the flags alone")
    return run_file, overrides


def _tokenizers(paths: list[Path], text: Path | None) -> "dict[str, Tokenizer]":
    from mypt_dist.data.foreign.tokenizer import named_tokenizer

    found = {str(path): named_tokenizer(str(path)).tokenizer for path in paths}
    if text is not None:
        found[f"char of {text}"] = named_tokenizer(f"char:{text}").tokenizer
    return found


def _time(
    hours: float | None, gpu: str | None, gpus: int, mfu: float, tokens_per_second: float | None
) -> "Budget | None":
    from mypt_dist.cli.plan import peak_flops
    from mypt_dist.errors import ConfigError
    from mypt_dist.run.sizes import Budget

    if hours is None:
        return None
    if tokens_per_second is not None:
        return Budget(tokens=hours * 3600 * tokens_per_second)
    peak = peak_flops(gpu)
    if peak is None:
        raise ConfigError("--hours is a budget only with a rate: give --gpu NAME, or --tokens-per-second N")
    return Budget(flops=hours * 3600 * gpus * peak * mfu)


def _budget(tokens: float | None, flops: float | None, time: "Budget | None") -> "Budget | None":
    from mypt_dist.errors import ConfigError
    from mypt_dist.run.sizes import Budget

    given = [budget is not None for budget in (tokens, flops, time)]
    if sum(given) > 1:
        raise ConfigError("--tokens, --flops and --hours are three ways to say one budget: give one of them")
    if tokens is not None or flops is not None:
        time = Budget(tokens=tokens, flops=flops)
    if time is not None and not 0 < (time.tokens or time.flops or 0) < 1e40:
        raise ConfigError("a budget is larger than nothing, and finite")
    return time
