"""A checkpoint of another trainer becomes one of ours, with a report of what became of it."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mypt_dist.data.foreign.dataset import Chosen
from mypt_dist.data.foreign.identity import Standing
from mypt_dist.data.progress import BytesDone, Progress
from mypt_dist.data.scan import sha256_of
from mypt_dist.errors import ConfigError, MyptError
from mypt_dist.interchange.adopted import Adopted, Origin, adopted_before, write_adopted
from mypt_dist.interchange.fitting import check_fits
from mypt_dist.interchange.torch_files.reading import Outline
from mypt_dist.interchange.trainers.layouts import Layout, generation_of, layout_of
from mypt_dist.interchange.trainers.moments import Moments, moments
from mypt_dist.interchange.trainers.rows import LOSSY, weights
from mypt_dist.interchange.trainers.sources import Foreign, Source, find, find_all, opened, plain
from mypt_dist.interchange.trainers.tokenizing import tokenizer_for
from mypt_dist.world import JSON

Status = Literal["converted", "there already", "would be converted", "refused"]
TAGS_LEFT_OUT = (
    "the tags of MyPT's conversations are no tokens of its tokenizer here: if it was trained on any, say how they were "
    "numbered, --tokenizer mypt-2025-12 or mypt-2026-03"
)


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may say."""

    tokenizer: str | None = None
    """As `named_tokenizer` has it. None: the one that the checkpoint names."""
    weights_only: bool = False
    """Leave the optimizer behind."""
    dry_run: bool = False
    outline: Outline | None = None
    """Who looks into pickles. None: a process that can do no harm."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one checkpoint."""

    name: str
    source: str
    status: Status
    out: str
    generation: str = ""
    step: int = 0
    parameters: int = 0
    dtypes: Mapping[str, int] | None = None
    """Tensors of the model by the type in which they are stored."""
    tokenizer: str = ""
    optimizer: str = ""
    """``kept``, or why there is none."""
    rounded: tuple[str, ...] = ()
    """What lost digits: it was stored in more than 32 bits."""
    notes: tuple[str, ...] = ()
    problem: str = ""
    """Why it was refused."""


def convert(source: Source, out: Path, options: Options, progress: Progress | None = None) -> Report:
    """Write ``source`` as the run folder ``out``; the source stays as it is. Done before, it is not done again.

    ``out`` is whole in the end or as it was. Raises `ConfigError` for what is not understood and for another content
    in ``out``, `CheckpointError` for a source that is damaged or hostile, and what `write_adopted` raises.
    """
    _apart(source, out)
    standing = Standing.of(source.files)
    done = BytesDone(2 * standing.bytes, progress)
    with opened(source, options.outline) as foreign:
        adopted, report = _understood(source, out, foreign, options)
        hashes = {path.name: sha256_of(path, done.add) for path in source.files}
        origin = adopted.origin.model_copy(update={"files": hashes})
        if adopted_before(out, origin):
            return replace(report, status="there already")
        if options.dry_run:
            return replace(report, status="would be converted")
        whole = replace(adopted, origin=origin, confirm=standing.require_unchanged)
        write_adopted(whole, out, _second_half(standing.bytes, progress))
    return report


def _second_half(size: int, progress: Progress | None) -> Progress:
    """A file is read twice, to hash it and to convert it."""

    def told(done: int, total: int) -> None:
        if progress is not None:
            progress(size + size * done // max(1, total), 2 * size)

    return told


def convert_all(
    folder: Path, out: Path, options: Options, progress_of: Callable[[str], Progress | None] = lambda _name: None
) -> tuple[list[Report], list[MyptError]]:
    """Convert every checkpoint in ``folder``, each to a folder of its name in ``out``, and go on where one is refused.

    Raises `ConfigError` where there is none at all.
    """
    reports, errors = list[Report](), list[MyptError]()
    for path in find_all(folder):
        try:
            reports.append(convert(find(path), out / path.name, options, progress_of(path.name)))
        except MyptError as error:
            errors.append(error)
            reports.append(Report(path.name, str(path), "refused", str(out / path.name), problem=str(error)))
    return reports, errors


def _apart(source: Source, out: Path) -> None:
    """Nothing is written into the folder of a bundle, which would no longer be the one that was found."""
    folder, target = source.path.resolve(), out.resolve()
    if folder.is_dir() and (target == folder or folder in target.parents):
        raise ConfigError(f"{out} lies in {source.path}, which stays as it is: give another folder")


def _understood(source: Source, out: Path, foreign: Foreign, options: Options) -> tuple[Adopted, Report]:
    """What it is, and what is to be told of it. Reads no tensor but those that must be equal."""
    where = str(source.path)
    generation = generation_of(foreign.weights, where)
    layout = layout_of(generation, foreign.settings, foreign.weights, where)
    chosen = tokenizer_for(foreign, options.tokenizer, layout.model.rows, source.path)
    rows = weights(layout, foreign.weights, where)
    tensors = [one.segment(as_fp32=False) for one in rows]
    check_fits(layout.model, None, tensors)
    kept, why = _optimizer(layout, foreign, options, where)
    rounded = (*(one.name for one in rows if one.dtype in LOSSY), *(("optimizer",) if kept and kept.rounded else ()))
    origin = Origin(
        program=foreign.program,
        generation=f"{foreign.format}, {generation}" if foreign.program == "mypt" else foreign.format,
        path=str(source.path.resolve()),
        files={},
        taken=("weights", "optimizer") if kept else ("weights",),
        tokenizer=chosen.tokenizer.fingerprint,
        dtypes=dict(Counter(one.dtype for one in rows)),
        settings={"model": plain(dict(foreign.settings)), "training": plain(dict(foreign.training))},
        notes=(*layout.notes, *_notes(foreign, chosen, options, rounded)),
    )
    adopted = Adopted(
        model=layout.model,
        tokenizer=chosen.tokenizer,
        tensors=[*tensors, *(kept.segments if kept else ())],
        origin=origin,
        step=foreign.step,
        optimizer=kept.config if kept else None,
        train=_train(foreign),
    )
    report = Report(
        name=source.name,
        source=where,
        status="converted",
        out=str(out),
        generation=f"{origin.program} {origin.generation}",
        step=foreign.step,
        parameters=sum(tensor.length for tensor in tensors),
        dtypes=origin.dtypes,
        tokenizer=f"{chosen.tokenizer.kind} ({chosen.name})",
        optimizer=why,
        rounded=rounded,
        notes=origin.notes,
    )
    return adopted, report


def _optimizer(layout: Layout, foreign: Foreign, options: Options, where: str) -> tuple[Moments | None, str]:
    """The optimizer's state, and what became of it."""
    if foreign.optimizer is None:
        return None, "none was saved"
    if options.weights_only:
        return None, "left behind (--weights-only)"
    if isinstance(foreign.optimizer, dict) and foreign.optimizer.get("state") == {}:
        return None, "saved before its first step"
    rate = _section(foreign.training, "training_config" if foreign.program == "mypt" else "config").get("learning_rate")
    return moments(layout, foreign.weights, foreign.optimizer, rate, where), "kept"


def _notes(foreign: Foreign, chosen: Chosen, options: Options, rounded: Sequence[str]) -> Iterator[str]:
    if rounded:
        yield f"stored in 64 bits and rounded to 32: {', '.join(rounded[:5])}{' …' if len(rounded) > 5 else ''}"
    if foreign.program == "mypt" and chosen.tokenizer.kind == "gpt2" and options.tokenizer is None:
        yield TAGS_LEFT_OUT
    if not foreign.step:
        yield "it does not say how many steps it was trained: counted as 0"


def _train(foreign: Foreign) -> dict[str, JSON]:
    """The batch of a step, over all ranks, where it is known."""
    if foreign.program == "mypt":
        sizes = [foreign.settings.get("batch_size")]
    else:
        config = _section(foreign.training, "config")
        sizes = [config.get("batch_size"), config.get("gradient_accumulation_steps", 1)]
    whole = [size for size in sizes if isinstance(size, int) and size > 0]
    return {"batch_size": math.prod(whole)} if len(whole) == len(sizes) else {}


def _section(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = mapping.get(key)
    return found if isinstance(found, dict) else {}
