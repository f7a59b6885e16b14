import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mypt_dist.training.signals import STOPPING, ControlFiles, StopRequest, Wish
from mypt_dist.training.throughput import Phases, measure_peak, peak_flops


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_becomes_a_vote_and_handlers_are_restored(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest().listening() as stop:
        assert Wish.of(stop.vote()) == Wish()
        os.kill(os.getpid(), number)
        assert Wish.of(stop.vote()) == Wish(number, stop=True)
        assert stop.stopping()
    assert signal.getsignal(number) is before


def test_a_run_under_nohup_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest().listening() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.stopping()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("signals", "later", "code"),
    [
        (("SIGTERM", "SIGTERM"), 15.0, 143),
        (("SIGINT", "SIGTERM"), 5.0, 143),
        (("SIGINT", "SIGINT"), 1.5, 130),
        (("SIGTERM", "SIGTERM"), 5.0, 0),
        (("SIGTERM", "SIGINT"), 0.5, 0),
        (("SIGUSR1", "SIGTERM"), 15.0, 0),
        (("SIGUSR1", "SIGUSR1", "SIGTERM", "SIGTERM"), 0.4, 0),
        (("SIGHUP", "SIGTERM", "SIGTERM"), 15.0, 143),
    ],
)
def test_a_second_request_ends_the_process_at_once(signals: tuple[str, ...], later: float, code: int) -> None:
    program = (
        "import itertools, os, signal\nfrom mypt_dist.training.signals import StopRequest\n"
        f"clock = itertools.count(100, {later})\n"
        "with StopRequest(clock=lambda: next(clock)).listening():\n"
        f"    for name in {signals}: os.kill(os.getpid(), signal.Signals[name])"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == code


def test_the_signal_with_a_deadline_wins() -> None:
    sums = {number: [float(known == number) for known in STOPPING] for number in STOPPING}
    both = [a + b for a, b in zip(sums[signal.SIGINT], sums[signal.SIGTERM], strict=True)]
    assert Wish.of([*both, 0.0, 0.0]).signal_number == signal.SIGTERM
    assert Wish.of([0.0] * 4 + [1.0, 0.0]) == Wish(save=True)
    assert Wish.of([0.0] * 4 + [0.0, 1.0]) == Wish(stop=True)


def test_a_folder_that_cannot_be_read_asks_for_nothing(tmp_path: Path) -> None:
    files = ControlFiles(tmp_path / ("x" * 300))
    assert files.look() == (False, False)
    files.obeyed("STOP")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_is_charged_to_phases_and_pauses_to_none() -> None:
    clock = Clock()
    phases = Phases(clock)
    for _ in range(2):
        with phases.phase("compute"):
            clock.now += 3.0
        with phases.phase("data_wait"):
            clock.now += 1.0
        phases.count_step(tokens=40)
    with phases.paused():
        clock.now += 100.0
    report = phases.report()
    assert report == {
        "time/compute_ms": 3000.0,
        "time/data_wait_ms": 1000.0,
        "time/step_ms": 4000.0,
        "throughput/tokens_per_sec": 10.0,
    }
    clock.now += 1.0
    assert phases.report() == {"time/step_ms": 1000.0, "throughput/tokens_per_sec": 0.0}


def test_the_peak_of_a_cpu_is_measured() -> None:
    device = torch.device("cpu")
    assert measure_peak(device, torch.float32, size=64, rounds=2) > 1e6
    assert peak_flops(device, "bf16") > 1e6
