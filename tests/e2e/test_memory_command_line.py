"""``mypt memory`` as a user sees it."""

import json
from pathlib import Path

import pytest
from conftest import Mypt

pytestmark = pytest.mark.e2e


def test_a_preset_is_told_for_every_engine_and_for_generating(mypt: Mypt) -> None:
    code, out, err = mypt("memory", "micro", "--ranks", "1,2", "--memory", "0.9")
    assert code == 0, err
    lines = out.splitlines()
    assert [line.split()[0] for line in lines if line.split()[1:2] in (["1"], ["2"])][:6] == [
        *("single", "ddp", "zero1", "zero2", "fsdp2", "zero3")
    ]
    assert "generating, GiB" in out
    assert {line.split()[-1] for line in lines if line.startswith(("single", "ddp", "fp32"))} == {"yes", "no"}


def test_a_run_file_is_told_on_cpus_in_json(mypt: Mypt, run_file: Path) -> None:
    code, out, _ = mypt("memory", run_file, "--cpu", "--ranks", "2", "--engine", "fsdp2", "--batch", "3", "--json")
    told = json.loads(out)
    assert code == 0
    assert [(one["engine"], one["ranks"], one["micro_batch"]) for one in told["training"]] == [("fsdp2", 2, 4)]
    assert [(one["batch"], one["tokens"], one["half"]) for one in told["generating"]] == [(3, 16, False)]
    assert told["training"][0]["total"] == told["training"][0]["tensors"] + told["training"][0]["process"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--ranks", "1,two"), "--ranks 1,two: give whole numbers"),
        (("--engine", "hsdp"), "hsdp needs replicas"),
        (("--tokens", "65"), "a row of 65 tokens does not fit"),
    ],
)
def test_mistakes_end_with_2_and_a_word(mypt: Mypt, arguments: tuple[str, ...], said: str) -> None:
    code, _, err = mypt("memory", "micro", "--ranks", "1", *arguments)
    assert code == 2
    assert said in err
