"""What one process finds under a path, without changing anything."""

import logging
import shutil
from pathlib import Path

import pytest
from checkpoint_doubles import QuickFiles, quick_disk, random_state, read_whole, same, save_alone

from mypt_dist.checkpoint import CorruptError, list_checkpoints, open_checkpoint, verify_checkpoint
from mypt_dist.errors import CheckpointError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with three checkpoints, the newest of them corrupt."""
    for step in (1, 2, 3):
        save_alone(tmp_path / "checkpoints", step, loss=4.0 - step)
    (tmp_path / "checkpoints" / "step-00000003" / "tokenizer.json").write_text("changed--------!")
    return tmp_path


def everything(root: Path) -> list[str]:
    return sorted(str(path) for path in root.rglob("*"))


@pytest.mark.parametrize("path", ["", "checkpoints", "checkpoints/step-00000002"])
def test_a_checkpoint_a_run_and_its_folder_of_checkpoints_can_all_be_opened(run: Path, path: str) -> None:
    before = everything(run)
    with open_checkpoint(run / path) as found:
        assert found.manifest.step == 2
        assert same(read_whole(found), random_state(2))
    assert everything(run) == before


def test_passing_over_a_corrupt_one_is_told(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        open_checkpoint(run).close()
    assert "step-00000003 is corrupt: tokenizer.json has changed; looking for an older one" in caplog.text


def test_a_corrupt_one_that_is_named_is_refused(run: Path) -> None:
    with pytest.raises(CorruptError, match=r"step-00000003 is corrupt: tokenizer\.json has changed"):
        open_checkpoint(run / "checkpoints" / "step-00000003")


def test_a_copy_under_another_name_can_be_opened(run: Path) -> None:
    shutil.copytree(run / "checkpoints" / "step-00000002", run / "best")
    with open_checkpoint(run / "best") as found:
        assert found.manifest.step == 2


def test_a_step_folder_renamed_to_another_step_is_refused(run: Path) -> None:
    (run / "checkpoints" / "step-00000002").rename(run / "checkpoints" / "step-00000009")
    with pytest.raises(CorruptError, match=r"manifest\.json is of step 2"):
        open_checkpoint(run / "checkpoints" / "step-00000009")


def test_an_attempt_is_not_a_checkpoint(run: Path) -> None:
    path = run / "checkpoints" / "step-00000009.partial-ab"
    path.mkdir()
    assert open_checkpoint(run).manifest.step == 2
    with pytest.raises(CorruptError, match=r"manifest\.json is missing"):
        open_checkpoint(path)


def test_verifying_tells_every_problem_and_where(run: Path) -> None:
    assert verify_checkpoint(run / "checkpoints" / "step-00000003") == ["tokenizer.json has changed"]
    assert verify_checkpoint(run) == ["step-00000003: tokenizer.json has changed"]
    assert verify_checkpoint(run / "checkpoints" / "step-00000001") == []


def test_listing_tells_step_size_and_metrics_and_hashes_nothing(run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "step-00000001" / "weights")
    (run / "checkpoints" / "step-00000002").rename(run / "checkpoints" / "step-00000002.corrupt")
    first, second, third = list_checkpoints(run)
    assert (first.step, first.tokens, first.bytes) == (1, None, 0)
    assert "weights/rank-00000-of-00001.safetensors is missing" in str(first.problem)
    assert (second.step, second.problem) == (2, "was set aside as corrupt")
    assert (third.step, third.tokens, third.metrics, third.problem) == (3, 300, {"loss": 1.0}, None)
    files = [path for path in third.folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    assert third.bytes == sum(path.stat().st_size for path in files)


def test_a_checkpoint_put_aside_by_a_replacement_that_died_still_counts(run: Path) -> None:
    folder = run / "checkpoints"
    shutil.rmtree(folder / "step-00000003")
    save_alone(folder, 5)
    (folder / "step-00000005").rename(folder / "step-00000005.aside-0a")
    assert open_checkpoint(run).manifest.step == 5
    assert [summary.step for summary in list_checkpoints(run)] == [1, 2, 5]
    save_alone(folder, 6)
    assert sorted(path.name for path in folder.iterdir()) == [f"step-0000000{step}" for step in (1, 2, 5, 6)]


def test_once_the_replacement_is_there_what_was_put_aside_does_not_count(run: Path) -> None:
    folder = run / "checkpoints"
    shutil.copytree(folder / "step-00000001", folder / "step-00000002.aside-0a")
    assert open_checkpoint(run).manifest.step == 2
    save_alone(folder, 6)
    assert not (folder / "step-00000002.aside-0a").exists()


@pytest.mark.parametrize("action", [open_checkpoint, verify_checkpoint, list_checkpoints])
def test_where_nothing_is_the_message_says_so(tmp_path: Path, action: object) -> None:
    assert callable(action)
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        action(tmp_path)
    with pytest.raises(CheckpointError, match=r"there is no .*/missing"):
        action(tmp_path / "missing")


def test_when_none_is_valid_the_message_says_so(tmp_path: Path) -> None:
    folder = save_alone(tmp_path, 1)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="no valid checkpoint in"):
        open_checkpoint(tmp_path, quick_disk())


def test_a_file_is_no_folder_of_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file is not a folder"):
        open_checkpoint(tmp_path / "file")


def test_a_link_to_a_run_or_to_a_checkpoint_is_followed(run: Path, tmp_path: Path) -> None:
    for name, target in (("latest", run), ("best", run / "checkpoints" / "step-00000002")):
        (tmp_path / name).symlink_to(target)
        assert open_checkpoint(tmp_path / name).manifest.step == 2


@pytest.mark.parametrize("action", [open_checkpoint, verify_checkpoint, list_checkpoints])
@pytest.mark.parametrize("call", ["status", "names"])
def test_a_folder_that_can_not_be_read_just_now_is_said_to_be_so(run: Path, action: object, call: str) -> None:
    class Unreadable(QuickFiles):
        pass

    def refuse(*args: object) -> None:
        raise OSError(13, "Permission denied")

    setattr(Unreadable, call, refuse)
    assert callable(action)
    with pytest.raises(CheckpointError, match="can not be read right now, it may be intact: Permission denied"):
        action(run, quick_disk(Unreadable()))
