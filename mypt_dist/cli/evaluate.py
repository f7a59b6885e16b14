"""``mypt eval``: what a trained model is worth, on a dataset or on tasks of the lm-evaluation-harness."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mypt_dist.cli.tables import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from mypt_dist.models.layers.causal_lm import CausalLM
    from mypt_dist.run.models import Loaded

LOG_EVERY_S = 10.0

logger = logging.getLogger(__name__)


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or one checkpoint in it.")],
    data: Annotated[
        str | None, typer.Option("--data", metavar="DIR|URL", help="Perplexity on this prepared dataset.")
    ] = None,
    split: Annotated[Literal["train", "val"], typer.Option(help="Which of its splits.")] = "val",
    tasks: Annotated[
        str | None, typer.Option(metavar="NAME,NAME...", help="Tasks of the lm-evaluation-harness (extra: eval).")
    ] = None,
    include: Annotated[Path | None, typer.Option(metavar="DIR", help="Task files of your own.")] = None,
    few_shot: Annotated[
        int | None, typer.Option("--few-shot", metavar="N", min=0, help="Examples in a prompt.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Documents of each task.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the result on a dataset. Default: DIR-SPLIT.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", min=1, help="Rows at once.")] = 8,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where the model computes.")] = "cpu",
    track: Annotated[bool, typer.Option("--track/--no-track", help="Tell the run's journal and MLflow.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Measure a model, and keep the result beside its checkpoints: evaluations/step-N/NAME.json.

    On a dataset every token but the first is predicted once: loss, perplexity, bits per byte.
    """
    from mypt_dist import log
    from mypt_dist.errors import ConfigError
    from mypt_dist.run.models import loaded

    log.install()
    if (data is None) == (tasks is None):
        raise ConfigError("say what to measure: --data DIR or --tasks NAME,NAME, one of both")
    ask = _harness() if tasks is not None else None
    found = loaded(run)
    found.model.to(_device(device))
    if ask is not None and tasks is not None:
        names = tuple(task.strip() for task in tasks.split(",") if task.strip())
        results = ask(found.model, found.tokenizer, names, include, few_shot, limit, batch_size)
    else:
        assert data is not None, "one of both is given"
        results = _on_data(found, data, split, name, batch_size)
    _keep(found, results, track=track)
    if as_json:
        print_json({"checkpoint": str(found.folder), "step": found.step, "results": results})
        return
    rows = [
        [called, metric, f"{value:.6g}"] for called, one in results.items() for metric, value in one["metrics"].items()
    ]
    print_table(["evaluation", "metric", "value"], rows)


def _on_data(found: "Loaded", data: str, split: str, name: str | None, batch_size: int) -> dict[str, dict[str, Any]]:
    from mypt_dist.cli.data_output import fetched
    from mypt_dist.data.manifest import DatasetManifest
    from mypt_dist.run.evaluation.perplexity import Text, predicted
    from mypt_dist.run.evaluation.results import name_of

    called = name_of(name or f"{Path(data.rstrip('/')).resolve().name}-{split}")
    with fetched(data) as folder:
        manifest = DatasetManifest.read(folder)
        mask = bool(found.run.get("data", {}).get("document_mask", False))
        text = Text(folder, split, batch_size, mask)
        measured = predicted(found.model, found.tokenizer, text, _progress(called))
    metrics = {key.rpartition("/")[2]: value for key, value in measured.metrics("x").items()}
    about = {"path": data, "split": split, "fingerprint": manifest.fingerprint}
    counts = {"tokens": measured.tokens, "bytes": measured.bytes, "windows": measured.windows}
    return {called: {"kind": "perplexity", "metrics": metrics, "data": {**about, **counts}, "document_mask": mask}}


def _harness() -> Callable[..., dict[str, dict[str, Any]]]:
    """What asks tasks. Raises `ConfigError` before a model is loaded in vain."""
    from mypt_dist.errors import ConfigError

    try:
        from mypt_dist.run.evaluation.harness import Asked, run_tasks
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--tasks needs the lm-evaluation-harness ({error.name} is missing): pip install 'mypt-dist[eval]'"
        ) from None

    def ask(model: "CausalLM", tokenizer: Any, names: tuple[str, ...], *rest: Any) -> dict[str, dict[str, Any]]:
        include, few_shot, limit, batch_size = rest
        results = run_tasks(model, tokenizer, Asked(names, include, few_shot, limit), batch_size)
        return {task: {"kind": "lm-eval", "limit": limit, **one} for task, one in results.items()}

    return ask


def _keep(found: "Loaded", results: Mapping[str, Mapping[str, Any]], *, track: bool) -> None:
    from mypt_dist.run.evaluation.results import name_of, record, run_of, told_trackers

    run = run_of(found.folder)
    if run is None:
        logger.warning("%s lies in no run: the result is kept nowhere", found.folder)
        return
    for name, result in results.items():
        record(run, found.step, name_of(name), {**result, "checkpoint": found.sha256})
    if track and (left := told_trackers(run)):
        logger.warning("%s", left)


def _device(name: str) -> str:
    import torch

    from mypt_dist.errors import ConfigError

    if name != "cpu" and not (name.startswith("cuda") and torch.cuda.is_available()):
        raise ConfigError(f"--device {name}: there is no such device here; cpu always is")
    return name


def _progress(what: str) -> Callable[[int, int], None]:
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LOG_EVERY_S:
            last = time.monotonic()
            logger.info("%s: %s of %s tokens (%.0f %%)", what, f"{done:,}", f"{total:,}", 100 * done / total)

    return progress
