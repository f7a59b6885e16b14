"""Checkpoints of MyPT and nanoGPT compute here what they computed there, and train on as they would have there."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from outlines import QUICK
from predecessors import SIZES, Theirs, batch, save_bundle, save_single, trained
from torch import Tensor, nn

from mypt_dist.checkpoint import open_checkpoint
from mypt_dist.engine import Engine, StepRecipe
from mypt_dist.interchange.trainers.conversion import Report, convert
from mypt_dist.interchange.trainers.sources import find
from mypt_dist.optim.adamw import AdamWConfig
from mypt_dist.run.checkpointing import reader
from mypt_dist.run.models import load_for_generation, load_model

FIXTURES = Path(__file__).parents[2] / "fixtures/mypt"

KINDS: dict[str, tuple[Callable[[], Theirs], Callable[[Theirs, Path], Path]]] = {
    "2025-12, bundle": (lambda: trained("heads"), save_bundle),
    "2025-12, bundle, biases": (lambda: trained("heads", bias=True), lambda t, p: save_bundle(t, p, wrapped=True)),
    "2025-12, single file": (lambda: trained("heads"), lambda t, p: save_single(t, p / "final.pt")),
    "2026-03, classic": (lambda: trained("classic"), lambda t, p: save_bundle(t, p, wrapped=True)),
    "2026-03, modern": (lambda: trained("modern"), lambda t, p: save_bundle(t, p, wrapped=True)),
    "2026-03, modern, untied": (lambda: trained("modern", tie_weights=False), save_bundle),
    "nanoGPT": (lambda: trained("nanogpt"), lambda t, p: save_single(t, p / "ckpt.pt")),
    "nanoGPT, biases": (lambda: trained("nanogpt", bias=True), lambda t, p: save_single(t, p / "ckpt.pt")),
}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """The text that a model of nanoGPT was trained on, for its characters."""
    path = tmp_path / "input.txt"
    path.write_text("the quick brown fox jumps over a lazy dog".replace(" ", ""))
    return path


def converted(source: Path, out: Path, text: Path | None = None) -> Report:
    given = f"char:{text}" if text is not None and source.name == "ckpt.pt" else None
    return convert(find(source), out, replace(QUICK, tokenizer=given))


@torch.no_grad()
def logits_of(model: nn.Module, ids: Tensor) -> Tensor:
    logits: Tensor = model.eval()(ids)
    return logits


@pytest.mark.parametrize("name", sorted(path.name for path in FIXTURES.iterdir() if path.is_dir()))
def test_what_mypt_itself_wrote_computes_the_same(name: str, tmp_path: Path) -> None:
    report = converted(FIXTURES / name, tmp_path / "run")
    known = (2, "none was saved") if name == "bundle_gpt2_bf16" else (5, "kept")
    assert (report.status, report.step, report.optimizer) == ("converted", *known)
    with np.load(FIXTURES / name / "expected.npz", allow_pickle=False) as expected:
        ids = torch.from_numpy(expected["input_ids"]).long()
        logits = logits_of(load_model(tmp_path / "run"), ids)
        assert np.abs(logits[:, -4:].numpy() - expected["logits"]).max() < 1e-5
        loss = F.cross_entropy(logits.flatten(0, 1), ids.roll(-1, 1).flatten())
        assert float(loss) == pytest.approx(float(expected["loss"]), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_computes_the_same(kind: str, tmp_path: Path, text: Path) -> None:
    make, save = KINDS[kind]
    theirs = make()
    report = converted(save(theirs, tmp_path / "there"), tmp_path / "run", text)
    assert (report.status, report.step, report.optimizer) == ("converted", theirs.steps, "kept")
    assert report.parameters == sum(p.numel() for p in theirs.model.parameters())
    ids, targets = batch(theirs.config, 99)
    expected, logits = logits_of(theirs.model, ids), logits_of(load_model(tmp_path / "run"), ids)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(loss, F.cross_entropy(expected.flatten(0, 1), targets.flatten()), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_step_is_the_one_that_its_own_optimizer_makes(kind: str, tmp_path: Path, text: Path) -> None:
    make, save = KINDS[kind]
    theirs = make()
    converted(save(theirs, tmp_path / "there"), tmp_path / "run", text)
    ids, targets = batch(theirs.config, theirs.steps)
    stepped = _step(tmp_path / "run", ids, targets)
    theirs.step()
    converted(save(theirs, tmp_path / "there after"), tmp_path / "after", text)
    with open_checkpoint(tmp_path / "after") as checkpoint:
        assert checkpoint.manifest.step == theirs.steps
        assert stepped.keys() == checkpoint.manifest.tensors.keys()
        for name, mine in stepped.items():
            expected = torch.empty_like(mine)
            reader(checkpoint)(name, tuple(mine.shape), 0, expected.view(-1))
            if name.startswith("model/") and name.endswith("qkv.bias"):
                # A key's bias cancels out of the softmax: its gradient is rounding alone, which AdamW scales up.
                mine, expected = (torch.cat([part.chunk(3)[0], part.chunk(3)[2]]) for part in (mine, expected))
            difference = float((mine - expected).abs().max())
            assert difference < 1e-6, name


def test_twin_without_its_moments_the_next_step_is_another(tmp_path: Path) -> None:
    theirs = trained("heads")
    converted(save_bundle(theirs, tmp_path / "there"), tmp_path / "run")
    ids, targets = batch(theirs.config, theirs.steps)
    kept, fresh = (_step(tmp_path / "run", ids, targets, moments=moments) for moments in (True, False))
    assert all(float((kept[name] - fresh[name]).abs().max()) > 1e-4 for name in kept if name.startswith("model/blocks"))


def _step(run: Path, ids: Tensor, targets: Tensor, *, moments: bool = True) -> dict[str, Tensor]:
    """All tensors of a converted checkpoint once training has gone on for a step."""
    with open_checkpoint(run) as checkpoint:
        optimizer = AdamWConfig.model_validate(checkpoint.manifest.run["optimizer"])
        model = load_model(run)
        engine = Engine()
        try:
            trainable = engine.prepare(model, optimizer.build(model), StepRecipe(max_norm=1e9))
            trainable.load_state(reader(checkpoint), moments=moments)
            with trainable.micro_batch(last=True):
                trainable.backward(trainable.model(ids, labels=targets) / targets.numel())
            trainable.update()
            return {t.name: t.flat.detach().clone().view(t.shape) for t in trainable.local_state()}
        finally:
            engine.close()


def test_16_bits_stay_16_bits_and_are_computed_with_as_stored(tmp_path: Path) -> None:
    theirs = trained("heads", vocab_size=50304, n_embd=6)
    theirs.dtype, theirs.characters = torch.bfloat16, None
    report = converted(save_bundle(theirs, tmp_path / "there", wrapped=True, optimizer=False), tmp_path / "run")
    assert report.optimizer == "none was saved"
    assert report.rounded == ()
    assert set(report.dtypes or {}) == {"BF16"}
    with torch.no_grad():
        for parameter in theirs.model.parameters():
            parameter.copy_(parameter.bfloat16())
    model, tokenizer = load_for_generation(tmp_path / "run")
    ids, _ = batch(theirs.config, 99)
    torch.testing.assert_close(logits_of(model, ids), logits_of(theirs.model, ids), atol=1e-5, rtol=0)
    assert tokenizer.encode("Hello world").tolist() == [15496, 995]


def test_64_bits_are_rounded_and_that_is_said(tmp_path: Path) -> None:
    theirs = trained("classic")
    theirs.model.double()
    theirs.dtype = torch.float64
    report = converted(save_bundle(theirs, tmp_path / "there", optimizer=False), tmp_path / "run")
    assert "model/embed.weight" in report.rounded
    assert "rounded" in report.notes[0]
    with open_checkpoint(tmp_path / "run") as checkpoint:
        assert {tensor.dtype for tensor in checkpoint.manifest.tensors.values()} == {"F32"}


def test_moments_of_16_bits_are_widened(tmp_path: Path) -> None:
    theirs = trained("classic")
    source = save_bundle(theirs, tmp_path / "there")
    state = theirs.optimizer.state_dict()
    for held in state["state"].values():
        held["exp_avg"] = held["exp_avg"].bfloat16()
    torch.save(state, source / "optimizer.pt")
    assert converted(source, tmp_path / "run").optimizer == "kept"
    with open_checkpoint(tmp_path / "run") as checkpoint:
        first = torch.empty(theirs.config["vocab_size"], theirs.config["n_embd"])
        reader(checkpoint)("optimizer/exp_avg/embed.weight", tuple(first.shape), 0, first.view(-1))
    assert torch.equal(first, state["state"][0]["exp_avg"].float())


def test_characters_keep_their_ids(tmp_path: Path) -> None:
    theirs = trained("heads")
    converted(save_bundle(theirs, tmp_path / "there"), tmp_path / "run")
    model, tokenizer = load_for_generation(tmp_path / "run")
    assert model.vocab_size == SIZES["vocab_size"]
    assert tokenizer.encode("".join(theirs.characters or [])).tolist() == list(range(SIZES["vocab_size"]))


def test_the_manifest_tells_where_it_came_from_and_how_it_was_trained(tmp_path: Path) -> None:
    source = save_bundle(trained("heads"), tmp_path / "there")
    converted(source, tmp_path / "run")
    with open_checkpoint(tmp_path / "run") as checkpoint:
        manifest = json.loads(checkpoint.manifest.model_dump_json())
    origin, optimizer = manifest["origin"], manifest["run"]["optimizer"]
    assert (origin["program"], origin["generation"], origin["path"]) == ("mypt", "bundle, 2025-12", str(source))
    assert set(origin["files"]) == {path.name for path in source.iterdir()}
    assert origin["settings"]["training"]["training_config"]["learning_rate"] == 1e-2
    assert origin["settings"]["model"]["batch_size"] == manifest["run"]["train"]["batch_size"] == 4
    assert (optimizer["lr"], optimizer["betas"]) == (1e-2, [0.9, 0.999])
    # Torch's own default: everything decays, gains and biases too.
    assert [(rule["match"], rule["weight_decay"]) for rule in optimizer["groups"]] == [("*", 0.01)]


def test_it_is_one_run_of_its_optimizer_that_nanogpt_had(tmp_path: Path, text: Path) -> None:
    converted(save_single(trained("nanogpt"), tmp_path / "ckpt.pt"), tmp_path / "run", text)
    with open_checkpoint(tmp_path / "run") as checkpoint:
        optimizer = AdamWConfig.model_validate(checkpoint.manifest.run["optimizer"])
        assert checkpoint.manifest.run["train"] == {"batch_size": 8}
    assert optimizer == AdamWConfig(lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
