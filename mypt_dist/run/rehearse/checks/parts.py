"""Do optimizer, engine, precision and trackers go together?"""

from collections.abc import Iterator
from urllib.parse import urlsplit

from mypt_dist.run.rehearse.case import Case
from mypt_dist.run.rehearse.checks.launching import topology_of
from mypt_dist.run.rehearse.findings import Finding
from mypt_dist.tracking.mlflow_sender.settings import URI_VARIABLE
from mypt_dist.tracking.mlflow_tracker import MlflowConfig
from mypt_dist.tracking.redact import without_secrets

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""What MLflow keeps runs in besides a server; a driver may follow after a plus sign."""


def engine_optimizer(case: Case) -> Iterator[Finding]:
    """An optimizer that the engine cannot step: Muon under ZeRO."""
    topology = topology_of(case)
    if topology and topology.zero_stage and case.config.optimizer.type_name() == "muon":
        yield Finding(
            "optimizer.type",
            f"muon with {topology.engine}: ZeRO cuts matrices into flat partitions, Muon needs whole ones",
            "every rank refuses it, after the machines have been started",
            "--target ddp or fsdp2, or optimizer.type=adamw",
        )


def engine_settings(case: Case) -> Iterator[Finding]:
    """Settings that the engine refuses: `train.hold_gradients` and fp8 under ZeRO."""
    topology, train = topology_of(case), case.config.train
    if topology is None or not topology.zero_stage:
        return
    why = "every rank refuses it, after the machines have been started"
    if train.hold_gradients:
        yield Finding(
            "train.hold_gradients",
            f"true with {topology.engine}: ZeRO decides itself when gradients are shared",
            why,
            "remove it, or --target fsdp2",
        )
    if train.precision == "fp8":
        yield Finding(
            "train.precision", f"fp8 with {topology.engine}", why, "train.precision=bf16, or --target fsdp2 or ddp"
        )


def optimizer_groups(case: Case) -> Iterator[Finding]:
    """A rule of `optimizer.groups` that no parameter follows, or that its algorithm cannot."""
    if case.around.optimizer_refusal:
        for line in case.around.optimizer_refusal.splitlines():
            where, _, found = line.partition(": ")
            yield Finding(
                where, found, "the run is refused when its model is built", "correct the pattern or remove the rule"
            )


def precision_here(case: Case) -> Iterator[Finding]:
    """fp16, fp8 and compilation: they need the GPU, so they are played as something else."""
    train = case.config.train
    if train.precision in ("fp16", "fp8"):
        yield Finding(
            "train.precision",
            f"{train.precision} cannot be rehearsed here: it needs a GPU",
            "overflows, loss scales and kernels of it are not seen; it is played as bf16 or fp32",
            "a few steps on one GPU: mypt train … train.stop_after=20",
            "note",
        )
    if train.compile:
        yield Finding(
            "train.compile",
            "compilation is not rehearsed: a CPU's compiler says nothing about a GPU's",
            "the first step on the cluster takes minutes, or fails in the compiler",
            "a few steps on one GPU: mypt train … train.stop_after=20",
            "note",
        )


def tracker_uri(case: Case) -> Iterator[Finding]:
    """An address of MLflow that cannot be one."""
    for number, tracker in enumerate(case.config.trackers):
        if not isinstance(tracker, MlflowConfig):
            continue
        given = tracker.uri or case.around.environ.get(URI_VARIABLE)
        problem = _malformed(given) if given else None
        if given and problem:
            yield Finding(
                f"trackers.{number}.uri" if tracker.uri else URI_VARIABLE,
                f"{without_secrets(given)!r} {problem}",
                "training goes on without it, and nobody sees a curve until `mypt runs sync`",
                "http://HOST:PORT of a server, or sqlite:///FILE",
            )


def _malformed(uri: str) -> str | None:
    if uri == "databricks":
        return None
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        return f"is no address: {error}"
    scheme = parts.scheme.partition("+")[0]
    if scheme in DATABASES:
        return None if parts.path.strip("/") else "names no database"
    if scheme not in ("http", "https", "databricks"):
        return f"begins with {parts.scheme or 'no scheme'}, which MLflow does not know"
    if not parts.hostname and scheme != "databricks":
        return "names no host"
    return "has port 0" if port == 0 else None


CHECKS = (engine_optimizer, engine_settings, optimizer_groups, precision_here, tracker_uri)
