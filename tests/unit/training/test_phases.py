import pytest

from mypt_dist.training.throughput import Phases


def test_whoever_listens_hears_each_phase_begin_and_the_one_around_it_when_it_ends() -> None:
    heard: list[str] = []
    phases = Phases(on_change=heard.append)
    with phases.phase("compute"):
        with phases.phase("forward"):
            pass
        with phases.phase("backward"):
            pass
    with phases.paused("save"):
        pass
    assert heard == ["compute", "forward", "compute", "backward", "compute", "loop", "save", "loop"]


def test_an_error_ends_a_phase_as_well() -> None:
    heard: list[str] = []
    phases = Phases(on_change=heard.append)
    with pytest.raises(RuntimeError), phases.phase("vote"):
        raise RuntimeError("connection reset")
    assert heard == ["vote", "loop"]


def test_a_phase_within_another_is_charged_to_both() -> None:
    now = [0.0]
    phases = Phases(lambda: now[0])
    with phases.phase("compute"), phases.phase("forward"):
        now[0] += 2.0
    phases.count_step(1)
    report = phases.report()
    assert (report["time/compute_ms"], report["time/forward_ms"], report["time/step_ms"]) == (2000.0, 2000.0, 2000.0)
