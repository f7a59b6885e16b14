"""A tracking server in memory, which keeps what MLflow's SQL stores keep and fails when it is told to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mypt_dist.tracking.journal import Journal
from mypt_dist.tracking.mlflow_sender.payload import Dataset, Point
from mypt_dist.tracking.mlflow_sender.remote import RUN_UID, Refused, RemoteRun, RunGone, Unreachable
from mypt_dist.tracking.mlflow_sender.ship import Shipper
from mypt_dist.tracking.mlflow_sender.state import SenderState, read_state


class Killed(BaseException):
    """Stands for kill -9: nothing in the sender may catch it."""


@dataclass
class StoredRun:
    name: str
    tags: dict[str, str]
    start_time: int
    status: str = "RUNNING"
    end_time: int | None = None
    params: dict[str, str] = field(default_factory=dict)
    points: dict[Point, None] = field(default_factory=dict)
    datasets: list[Dataset] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    deleted: bool = False

    def history(self, key: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.points if point.key == key]


class FakeRemote:
    """`Remote` in memory. ``faults[n]`` happens at the n-th call: before or after its effect."""

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.calls: list[str] = []
        self.faults: dict[int, str] = {}
        self.refuse: Callable[[str, object], bool] = lambda call, what: False
        self.broken: set[str] = set()
        self.down = False

    def _call(self, name: str, effect: Callable[[], object], what: object = None) -> object:
        number = len(self.calls)
        self.calls.append(name)
        fault = self.faults.get(number, "")
        if self.down or name in self.broken or fault == "lost":
            raise Unreachable(f"no answer to {name}")
        if fault == "killed before":
            raise Killed
        if self.refuse(name, what):
            raise Refused(f"{name} is not taken")
        result = effect()
        if fault == "killed after":
            raise Killed
        if fault == "answer lost":
            raise Unreachable(f"no answer to {name}")
        return result

    def _living(self, run_id: str) -> StoredRun:
        run = self.runs.get(run_id)
        if run is None or run.deleted:
            raise RunGone(run_id)
        return run

    def _view(self, run_id: str) -> RemoteRun:
        run = self._living(run_id)
        empty = not run.params and not run.points
        return RemoteRun(run_id, run.status, dict(run.params), dict(run.tags), is_empty=empty)

    def find(self, run_uid: str) -> list[RemoteRun]:
        def effect() -> list[RemoteRun]:
            living = [run_id for run_id, run in self.runs.items() if not run.deleted]
            return [self._view(run_id) for run_id in living if self.runs[run_id].tags.get(RUN_UID) == run_uid]

        return self._call("find", effect)  # type: ignore[return-value]

    def get(self, run_id: str) -> RemoteRun:
        return self._call("get", lambda: self._view(run_id))  # type: ignore[return-value]

    def create(self, name: str, tags: Mapping[str, str], start_time: int) -> str:
        def effect() -> str:
            run_id = f"run{len(self.runs)}"
            self.runs[run_id] = StoredRun(name, dict(tags), start_time)
            return run_id

        return self._call("create", effect)  # type: ignore[return-value]

    def delete(self, run_id: str) -> None:
        self._call("delete", lambda: setattr(self._living(run_id), "deleted", True))

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        assert 0 < len(points) <= 1000
        self._call("log_points", lambda: self._living(run_id).points.update(dict.fromkeys(points)), points)

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        def effect() -> None:
            run = self._living(run_id)
            for name, value in params.items():
                if run.params.setdefault(name, value) != value:
                    raise Refused(f"changing {name} is not allowed")

        self._call("log_params", effect, params)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._call("set_tags", lambda: self._living(run_id).tags.update(tags), tags)

    def log_datasets(self, run_id: str, datasets: Sequence[Dataset]) -> None:
        def effect() -> None:
            run = self._living(run_id)
            run.datasets = list(datasets)

        self._call("log_datasets", effect, datasets)

    def log_file(self, run_id: str, path: Path, folder: str) -> None:
        target = f"{folder}/{path.name}".lstrip("/")
        self._call("log_file", lambda: self._living(run_id).files.update({target: path.read_text()}), target)

    def log_text(self, run_id: str, text: str, file: str) -> None:
        self._call("log_text", lambda: self._living(run_id).files.update({file: text}), file)

    def reopen(self, run_id: str) -> None:
        self._call("reopen", lambda: setattr(self._living(run_id), "status", "RUNNING"))

    def close(self, run_id: str, status: str, end_time: int) -> None:
        def effect() -> None:
            run = self._living(run_id)
            run.status, run.end_time = status, end_time

        self._call("close", effect)

    @property
    def only(self) -> StoredRun:
        """The one run that is there."""
        living = [run for run in self.runs.values() if not run.deleted]
        assert len(living) == 1, living
        return living[0]


def shipper_of(run_dir: Path, remote: FakeRemote, *, session: int | None = 0, **fields: object) -> Shipper:
    """What a sender that starts now works with."""
    fresh = SenderState(uri="http://server", experiment="mypt", run_name="demo")
    state = read_state(run_dir) or fresh
    return Shipper(run_dir, remote, state.model_copy(update=fields), session)


def ship_all(shipper: Shipper, patience: int = 100) -> None:
    """Ship until there is nothing left, through every failure of the store."""
    while patience:
        try:
            if not shipper.step():
                return
        except Unreachable:
            patience -= 1
    raise AssertionError("the store never recovers")


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float = 1.0) -> None:
        self.now += seconds


def train(
    journal: Journal, clock: Clock, steps: Sequence[int], loss: Callable[[int], float] = lambda s: 10 / s
) -> None:
    for step in steps:
        clock.tick()
        journal.log(step, {"train/loss": loss(step), "throughput/tokens_per_sec": clock.now})


def start(journal: Journal, clock: Clock, resumed_from: int | None = None, **params: Any) -> None:
    clock.tick()
    journal.event("start", params=params, tags={}, dataset=[], resumed_from_step=resumed_from)


def finish(journal: Journal, clock: Clock, status: str = "finished", reason: str | None = None) -> None:
    clock.tick()
    journal.event("finish", status=status, reason=reason)
