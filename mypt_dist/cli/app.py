"""The tree of commands. One module for each family; `mypt --help` imports no torch."""

from typing import Annotated

import typer

from mypt_dist import __version__
from mypt_dist.cli import (
    chat,
    ckpt,
    data,
    doctor,
    evaluate,
    generate,
    launch,
    memory,
    models,
    params,
    plan,
    presets,
    rehearse,
    runs,
    tokenizer,
    train,
)

app = typer.Typer(
    name="mypt",
    help="Train GPTs on one CPU or many GPUs: text in, verified checkpoints out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


app.command("train")(train.train)
app.command("launch")(launch.launch)
app.command("plan")(plan.plan)
app.command("params")(params.params)
app.command("memory")(memory.memory)
app.command("doctor")(doctor.doctor)
app.command("rehearse")(rehearse.rehearse)
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.command("eval")(evaluate.evaluate)
app.add_typer(data.app, name="data")
app.add_typer(tokenizer.app, name="tokenizer")
app.add_typer(ckpt.app, name="ckpt")
app.add_typer(models.app, name="models")
app.add_typer(presets.app, name="presets")
app.add_typer(runs.app, name="runs")
app.command("schema")(presets.schema)
app.command("quickstart")(train.quickstart)
