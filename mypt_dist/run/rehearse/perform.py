"""The rehearsal from its first check to its report."""

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mypt_dist.data.place import DatasetPlace
from mypt_dist.errors import ConfigError, MyptError
from mypt_dist.launch import Topology
from mypt_dist.launch.plan import Place
from mypt_dist.run.config import RunConfig
from mypt_dist.run.plan.report import Machine, plan_run
from mypt_dist.run.rehearse.acts import Acts, Scene, free_port
from mypt_dist.run.rehearse.case import Case, Surroundings
from mypt_dist.run.rehearse.checks import findings
from mypt_dist.run.rehearse.checks.launching import topology_of
from mypt_dist.run.rehearse.findings import Finding, split_message
from mypt_dist.run.rehearse.guardian import guarded
from mypt_dist.run.rehearse.nodes import VirtualNode, make_nodes
from mypt_dist.run.rehearse.report import Outcome, Report, StageResult, failed, passed, skipped
from mypt_dist.run.rehearse.scale import Scaled, World, scaled, smaller_world
from mypt_dist.run.rehearse.stages import STAGES, Stage
from mypt_dist.run.rehearse.stand_in import prepare_stand_in
from mypt_dist.run.rehearse.surroundings import has_half_products, observe

PLAN = "plan"
NAMES = (PLAN, *(stage.name for stage in STAGES))


class Audience:
    """Is told what goes on. This one keeps it to itself."""

    def begins(self, stage: str) -> None:
        """A stage has begun."""

    def ends(self, result: StageResult) -> None:
        """It is over."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be rehearsed, and how."""

    config: RunConfig
    target: str
    place: Place
    memory: int | None = None
    """Bytes of one GPU. Null: nobody said."""
    only: tuple[str, ...] = ()
    """Stages. Empty: all."""
    keep: Path | None = None
    allowed: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    arrange: Callable[[Sequence[VirtualNode]], Sequence[VirtualNode]] = list
    """A seam for tests: changes what one of the nodes is told or sees."""

    @property
    def world(self) -> World:
        return World(self.place.ranks or 1, self.place.nodes or 1)

    def wants(self, stage: str) -> bool:
        return not self.only or stage in self.only


def perform(wish: Wish, audience: Audience) -> Report:
    """Check, then play. Everything that was made or started is gone afterwards, but for what is kept.

    Raises `ConfigError` for a stage that does not exist or a folder to keep that holds something.
    """
    unknown = [name for name in wish.only if name not in NAMES]
    if unknown:
        raise ConfigError(f"--only {unknown[0]}: there is no such stage (known: {', '.join(NAMES)})")
    case = Case(wish.config, wish.target, wish.place, observe_wish(wish), wish.allowed)
    found = findings(case)
    results = [_planned(case, found, wish.memory, audience)] if wish.wants(PLAN) else []
    wanted = [stage for stage in STAGES if wish.wants(stage.name)]
    blocked = next((finding for finding in found if finding.severity == "error"), None)
    topology = topology_of(case)
    if blocked or topology is None:
        reason = f"the plan has errors: {blocked.where if blocked else wish.target}"
        results += [StageResult(stage.name, skipped(reason), 0.0) for stage in wanted]
        return _report(wish, topology, None, results)
    with _stage_folder(wish.keep) as root, ExitStack() as stack:
        token = secrets.token_hex(8)
        stack.enter_context(guarded(token, None if wish.keep else root))
        datasets, remarks = _datasets(case, root)
        nowhere = f"http://127.0.0.1:{free_port()}"
        small = scaled(wish.config, wish.world, datasets, nowhere, half=has_half_products())
        scene = Scene(
            config=small.config,
            nodes=wish.arrange(make_nodes(root, small.config, wish.world, token)),
            world=wish.world,
            smaller=smaller_world(wish.config, wish.world),
            target=_played_target(wish.target, topology),
            replicas=topology.replicas if topology.replicas > 1 else None,
            token=token,
        )
        results += _play(Acts(scene), wanted, audience)
        return _report(wish, topology, small, results, remarks)


def observe_wish(wish: Wish) -> Surroundings:
    """What is around the run that is wished for."""
    return observe(wish.config, wish.target, wish.place, wish.environ)


def plan_stage(case: Case, found: Sequence[Finding], memory: int | None) -> Outcome:
    """Is the configuration sound, and does a rank fit into a GPU's memory?"""
    topology = topology_of(case)
    errors = [finding for finding in found if finding.severity == "error"]
    if errors or topology is None:
        return failed(f"{len(errors)} errors in the configuration or around it", *found)
    config = case.config
    if config.model.vocab_size is None and case.vocabulary is None:
        return passed("sound; its memory depends on the vocabulary of a dataset that is not here", *found)
    try:
        plan = plan_run(config, topology, Machine(device="gpu", memory=memory))
    except MyptError as error:
        text, remedy = split_message(str(error), "mypt plan says more")
        return failed("the plan is refused", Finding(case.target, text, "the engine refuses it", remedy), *found)
    need = plan.forecast.total / 2**30
    if plan.fits is False and memory is not None:
        ways = "; ".join(option.change for option in plan.options if option.fits(memory)) or "more or larger GPUs"
        text = f"a rank needs {need:,.2f} GiB of {memory / 2**30:,.2f} GiB"
        return failed("a rank does not fit", Finding("--memory", text, "it ends out of memory", ways), *found)
    share = f", {plan.share:.0%} of a GPU" if plan.share is not None else ""
    return passed(f"a rank needs {need:,.2f} GiB{share}; {plan.batches.accumulation} micro-batches a step", *found)


def _play(acts: Acts, wanted: Sequence[Stage], audience: Audience) -> Iterator[StageResult]:
    """The nodes must agree before ranks are started on them."""
    refused = False
    for stage in wanted:
        if refused:
            result = StageResult(stage.name, skipped("the nodes do not agree"), 0.0)
            audience.ends(result)
        else:
            result = _played(stage, acts, audience)
            refused = stage.name == "nodes" and result.outcome.verdict == "failed"
        yield result


def _played(stage: Stage, acts: Acts, audience: Audience) -> StageResult:
    audience.begins(stage.name)
    begin = time.monotonic()
    outcome = stage.judge(acts)
    result = StageResult(stage.name, outcome, stage.seconds(acts, time.monotonic() - begin))
    audience.ends(result)
    return result


def _planned(case: Case, found: Sequence[Finding], memory: int | None, audience: Audience) -> StageResult:
    audience.begins(PLAN)
    begin = time.monotonic()
    result = StageResult(PLAN, plan_stage(case, found, memory), time.monotonic() - begin)
    audience.ends(result)
    return result


def _datasets(case: Case, root: Path) -> tuple[dict[str, DatasetPlace], list[str]]:
    """Where each source is read: the real one in place, or a stand-in, which the remarks say."""
    paths: dict[str, DatasetPlace] = {}
    remarks = []
    for number, (name, source) in enumerate(case.around.sources.items()):
        if source.missing is None:
            paths[name] = source.path.resolve() if isinstance(source.path, Path) else source.path
        else:
            paths[name] = prepare_stand_in(root / "data" / str(number), case.config.train.seed)
            remarks.append(f"source {name}: {source.path} is not here, a synthetic dataset of bytes stands in for it")
    return paths, remarks


def _played_target(target: str, topology: Topology) -> str:
    """What the nodes launch, from folders of their own. On CPUs there is nothing to offload from."""
    if topology.is_fsdp and topology.offload_parameters:
        return topology.engine
    path = Path(target)
    return str(path.resolve()) if path.is_file() else target


@contextmanager
def _stage_folder(keep: Path | None) -> Iterator[Path]:
    """An empty folder; one to be kept must not hold anything yet."""
    if keep is None:
        root = Path(tempfile.mkdtemp(prefix="mypt-rehearsal-"))
        try:
            yield root.resolve()
        finally:
            shutil.rmtree(root, ignore_errors=True)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise ConfigError(f"--keep {keep}: it exists and holds something; name a new folder")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep.resolve()


def _report(
    wish: Wish,
    topology: Topology | None,
    small: Scaled | None,
    results: Sequence[StageResult],
    remarks: Sequence[str] = (),
) -> Report:
    return Report(
        name=wish.config.name,
        target=wish.target,
        engine=topology.engine if topology else "none",
        world=wish.world,
        smaller=smaller_world(wish.config, wish.world),
        changes=small.changes if small else {},
        remarks=remarks,
        stages=results,
        kept=str(wish.keep) if wish.keep and small else None,
    )
