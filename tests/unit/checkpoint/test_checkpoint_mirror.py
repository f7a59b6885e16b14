"""Copies of checkpoints in a second place: complete or not there, verified, and of no harm to the run."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoint_doubles import quick_disk, random_state, read_whole, same, save_alone, save_dealt

from mypt_dist.checkpoint import (
    CheckpointPolicy,
    CheckpointStore,
    Mirror,
    MirrorTarget,
    Retention,
    fill_from_mirror,
    open_checkpoint,
    verify_checkpoint,
)
from mypt_dist.checkpoint.mirror_keeper import State, keep, look, note, wait_s
from mypt_dist.checkpoint.mirror_process import MirrorProcess, Order
from mypt_dist.errors import CheckpointError, ConfigError
from mypt_dist.world import Solo

RULES = Retention(keep_last=2, keep_best=None)


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A second folder, and a place that is known by a URL alone."""
    yield str(tmp_path / "mirror") if request.param == "folder" else f"memory://{tmp_path.name}"
    from fsspec.implementations.memory import MemoryFileSystem

    MemoryFileSystem.store.clear()


def mirror(root: Path, url: str, rules: Retention = RULES) -> Mirror:
    return Mirror(root, MirrorTarget(url), rules, quick_disk())


def test_what_is_committed_is_copied_once_and_comes_back_as_it_was(tmp_path: Path, url: str) -> None:
    root = tmp_path / "run" / "checkpoints"
    for step in (1, 2):
        save_alone(root, step)
    keeper = mirror(root, url)
    assert keeper.catch_up() == [1, 2]
    assert keeper.catch_up() == mirror(root, url).catch_up() == []
    pulled = mirror(tmp_path / "new" / "checkpoints", url).pull()
    assert pulled == tmp_path / "new" / "checkpoints" / "step-00000002"
    assert verify_checkpoint(pulled) == []
    with open_checkpoint(pulled) as found:
        assert same(read_whole(found), random_state(2))
    other = mirror(tmp_path / "other", url).pull(step=1)
    assert other is not None
    assert other.name == "step-00000001"
    assert mirror(tmp_path / "third", url).pull(step=9) is None
    with pytest.raises(CheckpointError, match="step-00000002 is there already"):
        mirror(tmp_path / "new" / "checkpoints", url).pull()
    assert [path.name for path in (tmp_path / "new" / "checkpoints").iterdir()] == ["step-00000002"]


def test_while_nothing_changes_here_nothing_is_asked_of_the_place(tmp_path: Path, url: str) -> None:
    class Counting(MirrorTarget):
        asked = 0

        def names(self, folder: str = "") -> list[str]:
            self.asked += 1
            return super().names(folder)

    target = Counting(url)
    keeper = Mirror(tmp_path, target, RULES, quick_disk())
    save_alone(tmp_path, 1)
    keeper.catch_up()
    before = target.asked
    keeper.catch_up()
    assert target.asked == before
    save_alone(tmp_path, 1, random_state(5))
    assert keeper.catch_up() == [1]


def test_a_mirror_keeps_by_the_rules_and_the_newest_healthy_one_too(tmp_path: Path, url: str) -> None:
    root = tmp_path / "checkpoints"
    store = CheckpointStore(root, Solo(), RULES, disk=quick_disk())
    for step in range(1, 6):
        save_dealt(store, Solo(), step, {}, healthy=step < 3)
        mirror(root, url).catch_up()
    assert list(mirror(root, url).copies()) == ["step-00000002", "step-00000004", "step-00000005"]
    assert MirrorTarget(url).names() == ["step-00000002", "step-00000004", "step-00000005"]


def test_an_empty_folder_here_deletes_nothing_there(tmp_path: Path, url: str) -> None:
    root = tmp_path / "checkpoints"
    for step in (1, 2, 3):
        save_alone(root, step)
    mirror(root, url).catch_up()
    shutil.rmtree(root)
    assert mirror(root, url).catch_up() == []
    assert list(mirror(root, url).copies()) == ["step-00000002", "step-00000003"]


def test_a_step_that_was_saved_again_is_copied_again_and_what_was_undone_goes(tmp_path: Path, url: str) -> None:
    root = tmp_path / "checkpoints"
    for step in (1, 2, 3):
        save_alone(root, step)
    assert mirror(root, url).catch_up() == [2, 3], "what the rules do not keep is not copied either"
    store = CheckpointStore(root, Solo(), RULES, disk=quick_disk())
    store.set_back(1)
    save_dealt(store, Solo(), 2, random_state(7))
    assert mirror(root, url).catch_up() == [1, 2]
    assert list(mirror(root, url).copies()) == ["step-00000001", "step-00000002"]
    pulled = mirror(tmp_path / "new", url).pull()
    assert pulled is not None
    with open_checkpoint(pulled) as found:
        assert same(read_whole(found), random_state(7))


class Dying(MirrorTarget):
    """Ends at a call, before it, in the middle of it or after it."""

    def __init__(self, url: str, at: int, when: str) -> None:
        super().__init__(url)
        self.left, self.when = at, when

    def write(self, name: str, pieces: Any) -> None:
        self._do(lambda: super(Dying, self).write(name, pieces), lambda: super(Dying, self).write(name, [b"half"]))

    def remove(self, name: str) -> None:
        self._do(lambda: super(Dying, self).remove(name), lambda: None)

    def _do(self, action: Callable[[], None], half: Callable[[], None]) -> None:
        self.left -= 1
        if self.left == -1:
            {"before": lambda: None, "half": half, "after": action}[self.when]()
            raise KeyboardInterrupt
        action()


@pytest.mark.parametrize("when", ["before", "half", "after"])
def test_a_mirror_that_dies_at_any_call_shows_nothing_half_and_goes_on_next_time(
    tmp_path: Path, url: str, when: str
) -> None:
    root = tmp_path / "checkpoints"
    for step in (1, 2):
        save_alone(root, step)
    mirror(root, url).catch_up()
    save_alone(root, 2, random_state(8))
    save_alone(root, 3)
    ended = False
    for at in range(100):
        try:
            Mirror(root, Dying(url, at, when), RULES, quick_disk()).catch_up()
            ended = True
        except KeyboardInterrupt:
            for name in mirror(root, url).copies():
                step = int(name[5:])
                pulled = mirror(tmp_path / f"{at}-{step}", url).pull(step)
                assert pulled is not None
                assert verify_checkpoint(pulled, quick_disk()) == []
            assert mirror(root, url).copies()
        if ended:
            break
    assert ended
    assert list(mirror(root, url).copies()) == ["step-00000002", "step-00000003"]


def test_what_is_not_there_as_it_was_sent_is_no_copy(tmp_path: Path, url: str) -> None:
    class Lying(MirrorTarget):
        def write(self, name: str, pieces: Any) -> None:
            content = b"".join(pieces)
            super().write(name, [content[:-1] + b"?" if name.endswith("tokenizer.json") else content])

    root = tmp_path / "checkpoints"
    save_alone(root, 1)
    with pytest.raises(OSError, match=r"tokenizer\.json is not what was sent"):
        Mirror(root, Lying(url), RULES, quick_disk()).catch_up()
    assert mirror(root, url).copies() == {}


def test_without_reading_back_a_bad_copy_would_count(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lying(MirrorTarget):
        def write(self, name: str, pieces: Any) -> None:
            content = b"".join(pieces)
            super().write(name, [content[:-1] + b"?" if name.endswith("tokenizer.json") else content])

        def sha256(self, name: str) -> str:
            return hashes[name.partition("/")[2]]

    root = tmp_path / "checkpoints"
    manifest = json.loads((save_alone(root, 1) / "manifest.json").read_text())
    hashes = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    Mirror(root, Lying(url), RULES, quick_disk()).catch_up()
    assert list(mirror(root, url).copies()) == ["step-00000001"]


def test_bytes_that_changed_here_are_not_copied(tmp_path: Path, url: str) -> None:
    root = tmp_path / "checkpoints"
    (save_alone(root, 1) / "tokenizer.json").write_bytes(b"changed--------!")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has changed"):
        mirror(root, url).catch_up()
    assert mirror(root, url).copies() == {}


def test_a_damaged_copy_is_passed_over_and_the_one_before_it_used(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "checkpoints"
    for step in (1, 2):
        save_alone(root, step)
    mirror(root, url).catch_up()
    MirrorTarget(url).write("step-00000002/tokenizer.json", [b"changed--------!"])
    pulled = mirror(tmp_path / "new", url).pull()
    assert pulled is not None
    assert pulled.name == "step-00000001"
    assert "tokenizer.json has changed" in caplog.text
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["step-00000001"]
    MirrorTarget(url).write("step-00000001/tokenizer.json", [b"changed--------!"])
    with pytest.raises(CheckpointError, match="none of them is whole"):
        mirror(tmp_path / "newer", url).pull()


def test_a_copy_that_is_longer_than_it_says_does_not_fill_the_disk(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Endless(MirrorTarget):
        def pieces(self, name: str) -> Iterator[bytes]:
            yield from super().pieces(name)
            while name.endswith("tokenizer.json"):
                yield bytes(1 << 20)

    root = tmp_path / "checkpoints"
    save_alone(root, 1)
    mirror(root, url).catch_up()
    with pytest.raises(CheckpointError, match="none of them is whole"):
        Mirror(tmp_path / "new", Endless(url), RULES, quick_disk()).pull()
    assert "tokenizer.json has more than 16 bytes" in caplog.text
    assert list((tmp_path / "new").iterdir()) == []


def test_a_start_without_checkpoints_takes_the_newest_copy(tmp_path: Path, url: str) -> None:
    root, policy = tmp_path / "run" / "checkpoints", CheckpointPolicy(mirror=url, keep_last=2)
    assert fill_from_mirror(root, CheckpointPolicy()) is None
    assert fill_from_mirror(root, policy, quick_disk()) is None
    for step in (1, 2):
        save_alone(root, step)
    mirror(root, url).catch_up()
    assert fill_from_mirror(root, policy, quick_disk()) is None
    shutil.rmtree(root)
    assert fill_from_mirror(root, policy, quick_disk()) == 2
    found = CheckpointStore(root, Solo(), disk=quick_disk()).latest()
    assert found is not None
    assert found.manifest.step == 2


def test_a_start_does_not_begin_afresh_while_the_mirror_can_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(self: MirrorTarget, folder: str = "") -> list[str]:
        raise TimeoutError("no answer")

    monkeypatch.setattr(MirrorTarget, "names", down)
    with pytest.raises(CheckpointError, match="can not be read right now: TimeoutError: no answer"):
        fill_from_mirror(tmp_path / "checkpoints", CheckpointPolicy(mirror=str(tmp_path / "mirror")), quick_disk())


@pytest.mark.parametrize("url", ["nonsense://bucket/run", "webhdfs2://x"])
def test_a_url_that_nothing_can_open_is_refused_by_its_key(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"checkpoints\.mirror: .* can not be used"):
        fill_from_mirror(tmp_path, CheckpointPolicy(mirror=url))


def test_a_mirror_that_fails_is_told_and_tried_again_ever_more_rarely(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def down() -> list[int]:
        raise RuntimeError("the bucket is gone")

    state = State(mirror="s3://gone")
    for _ in range(3):
        state = look(down, state)
    note(tmp_path / "mirror.json", state)
    told = json.loads((tmp_path / "mirror.json").read_text())
    assert (told["failures"], told["error"]) == (3, "RuntimeError: the bucket is gone")
    assert "the mirror s3://gone was not brought up to date" in caplog.text
    state = look(lambda: [4, 5], state)
    assert (state.newest, state.copied, state.failures, state.error) == (5, 2, 0, None)
    assert [wait_s(failures) for failures in (0, 1, 9)] == [5.0, 10.0, 300.0]
    note(tmp_path / "missing" / "mirror.json", state)


def test_it_looks_once_more_when_the_run_has_ended(tmp_path: Path) -> None:
    root = tmp_path / "run" / "checkpoints"
    save_alone(root, 1)

    def ended(seconds: float) -> bool:
        save_alone(root, 2)
        return True

    keep(Order(parent=0, root=root, mirror=str(tmp_path / "mirror"), retention=RULES), ended)
    assert json.loads((tmp_path / "run" / "mirror.json").read_text())["newest"] == 2


def test_a_process_of_its_own_copies_while_the_run_goes_on(tmp_path: Path) -> None:
    root = tmp_path / "run" / "checkpoints"
    save_alone(root, 1)
    with MirrorProcess(root, str(tmp_path / "mirror"), RULES) as process:
        assert process.pid is not None
        wait_for((tmp_path / "mirror/step-00000001/manifest.json").exists)
        save_alone(root, 2)
    assert verify_checkpoint(tmp_path / "mirror") == []
    assert sorted(path.name for path in (tmp_path / "mirror").iterdir()) == ["step-00000001", "step-00000002"]


def test_it_dies_with_the_run(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        process = MirrorProcess(tmp_path / "checkpoints", str(tmp_path / "mirror"), RULES).__enter__()
        (tmp_path / "pid").write_text(str(process.pid))
        time.sleep(600)
        os._exit(0)
    wait_for((tmp_path / "mirror.json").exists)
    pid = int((tmp_path / "pid").read_text())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    wait_for(lambda: not Path(f"/proc/{pid}/stat").exists() or ") Z" in Path(f"/proc/{pid}/stat").read_text())


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)
