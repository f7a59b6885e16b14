"""The main job end to end, on text that every Python brings along: prepare, train, checkpoint, sample."""

from collections.abc import Callable, Sequence
from pathlib import Path

from mypt_dist.data.manifest import FILE, DatasetManifest
from mypt_dist.data.prepare import PrepareSettings, prepare
from mypt_dist.generation import generate_text
from mypt_dist.generation.sampling import sampling_from
from mypt_dist.run.build import train
from mypt_dist.run.config import RunConfig
from mypt_dist.run.models import load_for_generation

RUN_FILE = "runs/quickstart"
PROMPTS = ("def ", "import ")


def quickstart(folder: Path, overrides: Sequence[str], *, say: Callable[[str], object]) -> None:
    """Run it below ``folder``; what is there already is used and continued. Raises a `MyptError`."""
    data = folder / "data"
    if not (data / FILE).exists():
        say("1/3  preparing Python's standard library as bytes")
        prepare(["stdlib"], data, PrepareSettings(tokenizer="byte", val_fraction=0.02))
    manifest = DatasetManifest.read(data)
    say(f"     {manifest.splits.train.tokens:,} tokens to learn, {manifest.splits.val.tokens:,} held out: {data}")

    say("2/3  training (Ctrl-C saves and stops; the same command resumes)")
    config = RunConfig.load(RUN_FILE, [f"data.path={data}", f"out={folder / 'run'}", *overrides])
    outcome = train(config)
    outcome.raise_if_interrupted()

    say("3/3  sampling from the newest checkpoint")
    model, tokenizer = load_for_generation(outcome.folder)
    sampling = sampling_from(None, {"max_new_tokens": 120, "temperature": 0.7, "seed": 1})
    for prompt, text in zip(PROMPTS, generate_text(model, tokenizer, list(PROMPTS), sampling), strict=True):
        say(f"\n{prompt}{text}\n")
    run = outcome.folder
    say(f"run folder:   {run}")
    say(f"checkpoints:  mypt ckpt ls {run}")
    say(f"more text:    mypt generate --run {run} --prompt 'class '")
    for tracker in config.trackers:
        say(f"curves:       {tracker.build().where()}")
