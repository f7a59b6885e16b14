"""Names of folders and files: what is ours, and what a manifest may list."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mypt_dist.checkpoint.layout import is_safe_extra, is_safe_file, is_trash, parse_step, step_name, trash_name


@given(
    st.integers(0, 10**15 - 1),
    st.sampled_from([("", ""), ("partial", "0a1b"), ("aside", "ff"), ("corrupt", ""), ("corrupt", "7")]),
)
def test_a_folder_name_is_read_as_it_was_made(step: int, kind: tuple[str, str]) -> None:
    path = Path("run") / step_name(step, *kind)
    found = parse_step(path)
    assert found is not None
    assert (found.path, found.step, found.kind) == (path, step, kind[0])


@pytest.mark.parametrize(
    "name",
    [
        "step-1",
        "step-000000001",
        "step-00000001.bak",
        "step-00000001.",
        "step-00000001-a",
        "step-00000001.partial-A/",
        "x",
    ],
)
def test_other_names_are_not_ours(name: str) -> None:
    assert parse_step(Path(name)) is None


def test_what_is_being_deleted_is_no_checkpoint() -> None:
    name = trash_name(step_name(1), "0a")
    assert is_trash(name)
    assert parse_step(Path(name)) is None


@pytest.mark.parametrize("name", ["a", "weights/rank-00000-of-00001.part-01.safetensors", "A.b_c-1", "a..b"])
def test_plain_names_may_be_listed(name: str) -> None:
    assert is_safe_file(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/..", "a/../b", "/a", "a/b/c", "a b", "a\0", "-a", "\u00e9", "a" * 129]
)
def test_names_that_could_lead_elsewhere_may_not(name: str) -> None:
    assert not is_safe_file(name)


def test_a_caller_adds_no_files_in_folders_and_none_of_ours() -> None:
    assert is_safe_extra("tokenizer.json")
    assert not any(map(is_safe_extra, ["weights/a", "manifest.json", "weights", "optimizer", "rank-state", "../a"]))
