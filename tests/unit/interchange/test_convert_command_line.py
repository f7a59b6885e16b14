"""``mypt ckpt convert``, in the words that users of MyPT know and in ours."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from canary_payloads import Touch
from outlines import QUICK, in_process
from predecessors import save_bundle, save_single, trained

from mypt_dist.errors import ConfigError, DataError
from mypt_dist.interchange.torch_files import reading
from mypt_dist.interchange.trainers.conversion import convert
from mypt_dist.interchange.trainers.sources import find
from mypt_dist.run.models import load_for_generation, load_model

Mypt = Callable[..., tuple[int, str, str]]


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``checkpoints/`` of a working folder, with a bundle ``talk`` and an older ``old/latest.pt``."""
    monkeypatch.chdir(tmp_path)
    save_bundle(trained("heads", n_layer=1), tmp_path / "checkpoints/talk")
    save_single(trained("heads", n_layer=1, bias=True), tmp_path / "checkpoints/old/latest.pt")
    return tmp_path / "checkpoints"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_in_confinement", in_process)


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_from_the_command_to_a_model_that_speaks(mypt: Mypt, checkpoints: Path, tmp_path: Path) -> None:
    before = everything(checkpoints)
    code, out, _ = mypt("ckpt", "convert", checkpoints / "talk", "--out", tmp_path / "mine")
    assert (code, everything(checkpoints)) == (0, before)
    assert out.splitlines()[1].split()[:2] == ["talk", "converted"]
    assert mypt("ckpt", "verify", tmp_path / "mine")[0] == 0
    assert "bundle, 2025-12" in mypt("ckpt", "show", tmp_path / "mine")[1]
    code, out, _ = mypt("generate", "--run", tmp_path / "mine", "--prompt", "abc")
    assert code == 0, "characters without an end of text are generated, too"


@pytest.mark.usefixtures("quick")
def test_the_flags_of_mypt_mean_what_they_meant(mypt: Mypt, checkpoints: Path, tmp_path: Path) -> None:
    assert mypt("ckpt", "convert", "--model_name", "talk")[0] == 0
    assert mypt("ckpt", "convert", "--model_name", "old", "--checkpoint", "latest.pt")[0] == 0
    assert mypt("ckpt", "convert", "--checkpoint", "checkpoints/old/latest.pt", "--out", "by-file")[0] == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["old", "talk"]
    before = everything(tmp_path)
    code, out, _ = mypt("ckpt", "convert", "--all", "--json")
    assert code == 0
    assert {report["name"]: report["status"] for report in json.loads(out)} == {
        "old": "there already",
        "talk": "there already",
    }
    assert everything(tmp_path) == before


@pytest.mark.usefixtures("quick")
def test_a_dry_run_reports_and_writes_nothing(mypt: Mypt, checkpoints: Path, tmp_path: Path) -> None:
    before = everything(tmp_path)
    code, out, _ = mypt("ckpt", "convert", "--all", "--dry-run", "--json")
    reports = json.loads(out)
    assert (code, [report["status"] for report in reports]) == (0, ["would be converted"] * 2)
    assert [report["optimizer"] for report in reports] == ["kept", "kept"]
    assert everything(tmp_path) == before
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("quick")
def test_with_all_the_others_are_converted_and_the_exit_code_tells(
    mypt: Mypt, checkpoints: Path, tmp_path: Path
) -> None:
    (checkpoints / "hostile").mkdir()
    torch.save({"model_state_dict": Touch(tmp_path / "canary")}, checkpoints / "hostile/final.pt")
    save_single(trained("heads", n_layer=1), checkpoints / "old/final.pt")
    code, out, err = mypt("ckpt", "convert", "--all")
    assert code == 6
    assert "2 of 3 checkpoints in checkpoints were refused" in err
    assert "wants to use posix.system" in out
    assert "final.pt, which need not be the same: say which with --checkpoint" in out
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["talk"]
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say which checkpoint"),
        (("checkpoints/talk", "--model_name", "talk"), "both say which"),
        (("--all", "--model_name", "talk"), "--all means every checkpoint"),
        (("--model_name", "../talk"), "cannot be a file or folder"),
        (("--model_name", "nobody"), "there is no checkpoints/nobody"),
        (("checkpoints",), "holds no checkpoint of MyPT or nanoGPT"),
        (("checkpoints/talk", "--all"), "no folder in checkpoints/talk holds a checkpoint"),
        (("checkpoints/talk", "--out", "checkpoints/talk/new"), "which stays as it is"),
        (("checkpoints/talk", "--out", "checkpoints"), "give a folder that does not exist yet"),
        (("checkpoints/talk", "--tokenizer", "gpt2"), "is a gpt2 tokenizer"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_what_is_not_understood_is_told_and_changes_nothing(
    mypt: Mypt, checkpoints: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    before = everything(tmp_path)
    code, _, err = mypt("ckpt", "convert", *arguments)
    assert (code, said in err) == (2, True), err
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        ({"norm_type": "rmsnorm"}, "there is no model of pos_encoding 'learned', mlp_type 'gelu', norm_type 'rmsnorm'"),
        ({"pos_encoding": "alibi"}, "pos_encoding 'alibi'"),
    ],
)
def test_switches_of_which_there_is_no_model_are_named(tmp_path: Path, switches: dict[str, str], said: str) -> None:
    theirs = trained("classic", n_layer=1)
    theirs.config |= switches
    with pytest.raises(ConfigError, match=said):
        convert(find(save_bundle(theirs, tmp_path / "there")), tmp_path / "run", QUICK)


def test_a_model_of_conversations_needs_the_numbers_of_its_tags(tmp_path: Path) -> None:
    theirs = trained("heads", n_layer=1, n_embd=3, vocab_size=50304, use_loss_mask=True)
    theirs.characters = None
    source = find(save_bundle(theirs, tmp_path / "there", optimizer=False))
    with pytest.raises(ConfigError, match="--tokenizer mypt-2025-12, mypt-2026-03"):
        convert(source, tmp_path / "run", QUICK)
    for generation, end in (("mypt-2025-12", 50271), ("mypt-2026-03", 50275)):
        convert(source, tmp_path / generation, replace(QUICK, tokenizer=generation))
        _, tokenizer = load_for_generation(tmp_path / generation)
        assert tokenizer.specials["<myPT_eot>"] == end
    with pytest.raises(ConfigError, match="not that of"):
        convert(source, tmp_path / "mypt-2026-03", replace(QUICK, tokenizer="mypt-2025-12"))


def test_nanogpt_is_gpt2_by_its_size_or_says_nothing(tmp_path: Path) -> None:
    words = find(save_single(trained("nanogpt", n_layer=1), tmp_path / "words/ckpt.pt"))
    with pytest.raises(ConfigError, match="does not say with which tokenizer"):
        convert(words, tmp_path / "words run", QUICK)
    pretrained = trained("nanogpt", n_layer=1, n_embd=3, vocab_size=50257)
    report = convert(find(save_single(pretrained, tmp_path / "gpt2/ckpt.pt")), tmp_path / "run", QUICK)
    assert report.tokenizer.startswith("gpt2")
    _, tokenizer = load_for_generation(tmp_path / "run")
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (50257, 50256)
    assert load_model(tmp_path / "run").vocab_size == 50257


def test_characters_out_of_order_are_refused_rather_than_renumbered(tmp_path: Path) -> None:
    theirs = trained("heads", n_layer=1)
    assert theirs.characters is not None
    theirs.characters.reverse()
    with pytest.raises(ConfigError, match="in the order of their code points"):
        convert(find(save_bundle(theirs, tmp_path / "there")), tmp_path / "run", QUICK)


def test_a_source_that_changes_meanwhile_is_not_converted(tmp_path: Path) -> None:
    source = find(save_bundle(trained("heads", n_layer=1), tmp_path / "there"))

    def touched(done: int, total: int) -> None:
        if done > total // 2:
            (source.path / "config.json").write_text("{}")

    with pytest.raises(DataError, match="changed while it was read"):
        convert(source, tmp_path / "run", QUICK, touched)
    assert not (tmp_path / "run").exists()
