"""The network between two hosts is cut: both sides stop, neither saves on its own, and the run goes on afterwards."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from counted import SOAK, count
from hosts import LAUNCH_FILES, NEEDS_ROOT, ON_ONE_HOST, TwoHosts, logs
from lives import ForkServer, eventually, final, lost_work, steps_done, write_run

from mypt_dist.checkpoint import open_checkpoint, verify_checkpoint

pytestmark = [NEEDS_ROOT, pytest.mark.cluster, pytest.mark.timeout(900)]

PATIENCE_S = 15
"""Of a collective, in these tests."""
MARGIN_S = 90
"""For a supervisor that waits for its launcher, and two interpreters to end on a busy machine; what was measured is
told."""

SAVE_EVERY = 50


@pytest.fixture
def two() -> Iterator[TwoHosts]:
    with TwoHosts() as two:
        yield two


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


def start(two: TwoHosts, file: Path, engine: str, rendezvous: str, *overrides: str) -> list["subprocess.Popen[bytes]"]:
    """Static: with nobody between launcher and test. The launchers of c10d need a supervisor, see its LINGERS_S."""
    overrides = (f"watch.step_s={PATIENCE_S}", *overrides)
    if rendezvous == "static":
        return two.accelerate(file, engine, rendezvous, *overrides)
    launch_file = file.with_suffix(".yaml")
    launch_file.write_text((LAUNCH_FILES / f"{engine}.yaml").read_text() + f"\nrdzv_backend: {rendezvous}\n")
    return two.supervised(file, launch_file, *overrides)


def saves(run: Path) -> set[str]:
    return {path.name for path in (run / "checkpoints").glob("step-????????")}


def stopped(
    two: TwoHosts, launchers: list["subprocess.Popen[bytes]"], seconds: float
) -> tuple[list[float], list[float]]:
    """Seconds after which each host's rank was gone, and its launcher, too. Whoever is left is killed: a failure."""
    begun = time.monotonic()
    ranks: dict[int, float] = {}
    hosts: dict[int, float] = {}
    while len(hosts) < len(launchers) and time.monotonic() < begun + seconds:
        for number, launcher in enumerate(launchers):
            after = time.monotonic() - begun
            if number not in ranks and not two.hosts[number].trains():
                ranks[number] = after
            if number not in hosts and launcher.poll() is not None:
                hosts[number] = after
        time.sleep(0.05)
    for launcher in launchers:
        launcher.kill()
        launcher.wait()
    assert len(hosts) == len(launchers), f"a host did not stop within {seconds} s: {hosts}"
    return sorted(ranks.values()), sorted(hosts.values())


@pytest.mark.parametrize(
    ("engine", "rendezvous", "how"),
    [("ddp", "static", "cable"), ("fsdp2", "c10d", "switch")]
    + ([("ddp", "c10d", "switch"), ("fsdp2", "static", "cable")] if SOAK else []),
)
def test_both_sides_stop_and_the_run_goes_on_when_the_network_is_back(
    engine: str,
    rendezvous: str,
    how: str,
    run_mapping: dict[str, Any],
    tmp_path: Path,
    two: TwoHosts,
    server: ForkServer,
) -> None:
    train = {"save_every": SAVE_EVERY, "eval_every": 10_000}
    # How much is done again must not depend on how long a background save takes.
    run_mapping["checkpoints"] = {"keep_last": 9, "background": False}
    file = write_run(run_mapping, tmp_path, "parted", steps=100_000, **train)
    run = file.with_suffix("")
    launchers = start(two, file, engine, rendezvous)
    eventually(
        "two saves", lambda: steps_done(run) > 2 * SAVE_EVERY or any(one.poll() is not None for one in launchers)
    )
    assert all(launcher.poll() is None for launcher in launchers), logs(file)

    two.cut(how)
    before = saves(run)
    ranks_gone, hosts_gone = stopped(two, launchers, PATIENCE_S + MARGIN_S)
    said = logs(file)
    # Whoever is first: the collective that gives up, or the watchdog of a rank that waits in its backward pass.
    assert "mypt: another rank died or stopped answering" in said or "hangs" in said
    after = saves(run)
    # A save whose receipts had all come in when the network went is rank 0's to finish.
    assert len(after - before) <= 1
    reached = steps_done(run)
    two.mend()

    step = int(open_checkpoint(run).manifest.step)
    assert verify_checkpoint(run / f"checkpoints/step-{step:08}") == []
    assert reached - step <= SAVE_EVERY
    end = step + SAVE_EVERY
    again = start(two, file, engine, rendezvous, f"train.stop_after={end}")
    assert [one.wait(300) for one in again] == [0, 0], logs(file)
    assert lost_work(run) == [reached - step]

    whole = write_run(run_mapping, tmp_path, "whole", steps=100_000, **train)
    assert server.start(whole, f"train.stop_after={end}", ranks=2, environment=ON_ONE_HOST[engine]).wait() == [0, 0]
    assert final(run) == final(whole.with_suffix(""))
    count(
        f"the network between two hosts is cut ({engine}, {rendezvous} rendezvous, {how})",
        "both sides stop, neither saves on its own; resumed when it is back, bit-identical to a run without a cut",
        time_out_s=PATIENCE_S,
        last_rank_gone_after_s=round(ranks_gone[-1], 1),
        last_launcher_gone_after_s=round(hosts_gone[-1], 1),
        saves_after_the_cut=len(after - before),
        steps_done_again=reached - step,
        differing=0,
    )
