import os
import signal
import subprocess
import sys

import pytest
import torch

from mypt_dist.training.signals import StopRequest, decided
from mypt_dist.training.throughput import Phases, measure_peak, peak_flops


@pytest.mark.parametrize(("number", "vote"), [(signal.SIGTERM, (1, 0)), (signal.SIGINT, (0, 1))])
def test_a_signal_becomes_a_vote_and_handlers_are_restored(number: signal.Signals, vote: tuple[int, int]) -> None:
    before = signal.getsignal(number)
    with StopRequest().listening() as stop:
        assert stop.vote() == (0, 0)
        os.kill(os.getpid(), number)
        assert stop.vote() == vote
    assert signal.getsignal(number) is before


def test_the_second_signal_ends_the_process_at_once() -> None:
    code = (
        "import os, signal, time\nfrom mypt_dist.training.signals import StopRequest\n"
        "with StopRequest().listening():\n"
        "    os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 143


def test_terminate_wins_over_interrupt() -> None:
    assert [decided(0, 0), decided(0, 2), decided(1, 0), decided(1, 1)] == [0, 2, 15, 15]


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
