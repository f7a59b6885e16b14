"""Runs on mixtures: what they read, what their checkpoints say of it, and what becomes of it on a resume."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mypt_dist.checkpoint import Manifest, open_checkpoint
from mypt_dist.data.config import DataConfig
from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.data.mixture import with_mixture
from mypt_dist.errors import CheckpointError, ConfigError
from mypt_dist.run import build
from mypt_dist.run.config import RunConfig
from mypt_dist.run.coverage import planned_coverage
from mypt_dist.run.rehearse.order import order_hash
from mypt_dist.run.resume import past_of
from mypt_dist.tracking.journal import read_events, read_metrics

CURRICULUM = [
    {"until_step": 2, "weights": {"en": 1}},
    {"until_tokens": 5 * 8 * 16 + 3, "weights": {"en": 0.5, "code": 0.5}},
]


@pytest.fixture
def mixed(run_mapping: dict[str, Any], mixture: Path) -> dict[str, Any]:
    """The smallest run on a mixture: 12 steps of 8 windows of 16 tokens."""
    run_mapping["data"] = {"path": str(mixture), "coverage": {"below": "ignore"}}
    run_mapping["train"] |= {"steps": 12, "eval_every": 100, "eval_windows": 4}
    return run_mapping


def train(mapping: dict[str, Any], *allow: str, **settings: Any) -> Path:
    config = RunConfig.model_validate({**mapping, "train": {**mapping["train"], **settings}})
    return build.train(config, allow_changes=allow).folder


def manifest(run: Path) -> Manifest:
    with open_checkpoint(run) as checkpoint:
        return checkpoint.manifest


def elsewhere(mapping: dict[str, Any], name: str) -> dict[str, Any]:
    return {**mapping, "out": str(Path(mapping["out"]).with_name(name))}


def given_by(run: Path) -> dict[str, int]:
    return {name: place["samples"] for name, place in manifest(run).sources.items()}  # type: ignore[index, call-overload]


def test_a_mixture_is_read_by_its_weights_and_told_in_manifest_and_metrics(mixed: dict[str, Any]) -> None:
    run = train(mixed)
    saved = manifest(run)
    counts = given_by(run)
    assert sum(counts.values()) == 96
    assert all(abs(counts[name] - 96 * share) < 1 for name, share in {"code": 0.2, "de": 0.5, "en": 0.3}.items())
    assert saved.data["stretches"] == [{"first": 0, "quota": {"code": 2, "de": 5, "en": 3}}]
    assert saved.run["data"]["path"] is None  # type: ignore[index, call-overload]
    last = [row for row in read_metrics(run) if "train/loss" in row][-1]
    for name, place in saved.sources.items():
        assert isinstance(place, dict)
        assert last[f"data/tokens/{name}"] == place["tokens"] == counts[name] * 16
        assert last[f"data/epoch/{name}"] == place["epochs"]


def test_phases_switch_at_their_sample(mixed: dict[str, Any]) -> None:
    mixed["data"]["phases"] = CURRICULUM
    run = train(mixed)
    assert manifest(run).data["stretches"] == [
        {"first": 0, "quota": {"en": 1}},
        {"first": 16, "quota": {"code": 1, "en": 1}},
        {"first": 41, "quota": {"code": 2, "de": 5, "en": 3}},
    ]
    assert manifest(run).order_hash == order_hash(RunConfig.model_validate(mixed).with_sources(), 12)


def test_an_interrupted_curriculum_is_the_uninterrupted_one(mixed: dict[str, Any]) -> None:
    mixed["data"]["phases"] = CURRICULUM
    whole = train(mixed)
    parts = elsewhere(mixed, "parts")
    for stop in (2, 3, 5, 12):
        train(parts, stop_after=stop)
    resumed, undisturbed = manifest(Path(parts["out"])), manifest(whole)
    assert resumed.order_hash == undisturbed.order_hash
    assert resumed.sources == undisturbed.sources
    assert resumed.data["stretches"] == undisturbed.data["stretches"]
    assert resumed.canary == undisturbed.canary


def test_another_weight_on_a_resume_must_be_allowed_and_is_recorded_from_its_sample_on(mixed: dict[str, Any]) -> None:
    run = train(mixed, stop_after=4)
    before = given_by(run)
    mixed["data"]["weights"] = {"de": 0, "code": 0.7}
    with pytest.raises(ConfigError, match=r"data.weights.code: None there, 0.7 here"):
        train(mixed)
    train(mixed, "data.weights", stop_after=7)
    train(mixed)
    assert manifest(run).data["stretches"] == [
        {"first": 0, "quota": {"code": 2, "de": 5, "en": 3}},
        {"first": 32, "quota": {"code": 7, "en": 3}},
    ]
    after = given_by(run)
    assert after["de"] == before["de"]
    assert abs(after["code"] - before["code"] - 64 * 0.7) < 1
    assert "data.weights.code" in {change["key"] for change in manifest(run).changes}


def test_sources_come_and_go_and_those_that_stay_go_on(mixed: dict[str, Any], mixture: Path, dataset: Path) -> None:
    mixed["data"] = {"sources": {name: {"path": str(mixture / name)} for name in ("de", "en")}}
    run = train(mixed, stop_after=4)
    mixed["data"]["sources"] = {
        "en": {"path": str(mixture / "en"), "weight": 3},
        "more": {"path": str(dataset), "weight": 1},
    }
    with pytest.raises(ConfigError, match=r"data.sources.more.weight: None there, 1.0 here"):
        train(mixed)
    train(mixed, "data.sources", stop_after=6)
    train(mixed, stop_after=8)
    assert given_by(run) == {"de": 16, "en": 16 + 24, "more": 8}
    assert "epochs" not in manifest(run).sources["de"]  # type: ignore[operator]
    assert manifest(run).data["stretches"] == [
        {"first": 0, "quota": {"de": 1, "en": 1}},
        {"first": 32, "quota": {"en": 3, "more": 1}},
    ]


def test_other_content_of_a_source_is_refused_by_its_name(mixed: dict[str, Any], mixture: Path, dataset: Path) -> None:
    mixed["data"] = {"sources": {name: {"path": str(mixture / name)} for name in ("de", "en")}}
    train(mixed, stop_after=1)
    mixed["data"]["sources"]["en"]["path"] = str(dataset)
    with pytest.raises(ConfigError, match=r"data.sources.en: '"):
        train(mixed)


def test_a_run_stops_before_the_step_that_would_read_too_much(mixed: dict[str, Any], mixture: Path) -> None:
    windows = DatasetManifest.read(mixture / "code").splits.train.tokens // 17
    sources = {name: {"path": str(mixture / name)} for name in ("code", "de")}
    sources["code"] |= {"max_epochs": 20.5 / windows, "exhausted": "stop"}
    mixed["data"] = {"sources": sources}
    run = train(mixed)
    saved = manifest(run)
    assert (saved.step, saved.samples) == (5, 40), "the 21st window of code would be sample 40 of this mixture"
    assert "val/loss" in saved.metrics
    finish = read_events(run)[-1]
    assert finish["status"] == "stopped"
    assert finish["reason"].startswith("data.sources.code is exhausted at step 5 of 12")
    assert manifest(train(mixed)).step == 5, "started again, there is nothing to do"


def test_a_dropped_source_leaves_its_share_to_the_others(mixed: dict[str, Any], mixture: Path) -> None:
    windows = DatasetManifest.read(mixture / "code").splits.train.tokens // 17
    sources = {name: {"path": str(mixture / name)} for name in ("code", "de", "en")}
    sources["code"] |= {"max_epochs": 20.5 / windows, "exhausted": "drop"}
    mixed["data"] = {"sources": sources}
    run = train(mixed, stop_after=6)
    train(mixed)
    counts = given_by(run)
    assert counts["code"] == 20
    assert abs(counts["de"] - counts["en"]) <= 2
    stretches = manifest(run).data["stretches"]
    assert isinstance(stretches, list)
    assert [stretch["quota"] for stretch in stretches] == [  # type: ignore[index, call-overload]
        {"code": 1, "de": 1, "en": 1},
        {"de": 1, "en": 1},
    ]


def test_evaluation_sets_have_windows_and_metrics_of_their_own(mixed: dict[str, Any], dataset: Path) -> None:
    mixed["evaluation"] = {
        "by_source": True,
        "sets": {"extra": {"path": str(dataset)}, "seen": {"path": str(dataset), "split": "train", "windows": 2}},
    }
    run = train(mixed, steps=1)
    (row,) = (row for row in read_metrics(run) if "val/loss" in row)
    names = {"code", "de", "en", "extra", "seen"}
    assert {key for key in row if key.startswith("val/")} == {
        f"val/{prefix}{metric}"
        for prefix in ("", *(f"{n}/" for n in names))
        for metric in ("loss", "ppl", "bpb", "accuracy")
    }
    assert len({row[f"val/{name}/loss"] for name in names}) == 5
    assert manifest(run).metrics["val/de/loss"] == row["val/de/loss"]
    plain = train({**elsewhere(mixed, "plain"), "evaluation": {}}, steps=1)
    assert manifest(plain).order_hash == manifest(run).order_hash
    assert manifest(plain).canary == manifest(run).canary, "measuring changes nothing"


def test_a_run_that_reads_too_little_is_told_or_refused(
    mixed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    mixed["data"]["coverage"] = {"below": "refuse", "limit": 0.4}
    with pytest.raises(ConfigError, match=r"very low, below data.coverage.limit 0.4; 2 times in [\d,]+ steps"):
        train(mixed)
    assert not (Path(mixed["out"]) / "checkpoints").exists()
    mixed["data"]["coverage"] = {"below": "warn", "limit": 0.4}
    train(mixed, steps=1)
    assert "to learn from: very low; 2 times in" in capsys.readouterr().err
    mixed["data"]["coverage"] = {"below": "ignore"}
    train(mixed, steps=2)
    assert "to learn from: very low\n" in capsys.readouterr().err


def test_coverage_counts_what_the_folder_has_behind_it(mixed: dict[str, Any], dataset: Path) -> None:
    train(mixed, stop_after=4)
    mixed["data"]["weights"] = {"de": 0}
    config = RunConfig.model_validate(mixed).with_sources()
    found = planned_coverage(config)
    assert (found.done.step, found.read_so_far) == (4, 4 * 8 * 16)
    assert found.whole.read == 12 * 8 * 16
    assert found.sources["de"].read == 16 * 16, "half of what was read until then"
    assert found.steps_for(2) == 4 + -(-(2 * found.whole.tokens - 512) // 128)
    other = planned_coverage(config, dataset)
    assert (other.done.step, set(other.sources)) == (0, {"main"})


def test_a_checkpoint_from_before_there_were_curricula_is_one_stretch(mixed: dict[str, Any]) -> None:
    saved = manifest(train(mixed, stop_after=1))
    old = saved.model_copy(update={"data": {k: v for k, v in saved.data.items() if k != "stretches"}})
    assert past_of(old) == past_of(saved)
    wrong = {**saved.sources, "de": {"samples": 5, "epochs": 0.1}}
    with pytest.raises(CheckpointError, match="the checkpoint of step 1 says that its sources gave"):
        past_of(saved.model_copy(update={"sources": wrong}))


def listed(mixture: Path, **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((mixture / "mixture.json").read_text())
    content["sources"][0] |= changes
    return content


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "de"}, "lists two sources called 'de'"),
        ({"name": "../de"}, "sources.0.name: string should match pattern"),
        ({"weight": -1}, "sources.0.weight: input should be greater than or equal to 0"),
        ({"weights": 1}, "sources.0.weights: unknown key, did you mean 'weight'?"),
    ],
)
def test_a_mixture_file_that_makes_no_sense_is_refused(
    mixture: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(listed(mixture, **changes)))
    with pytest.raises(ConfigError, match=r"mine\.json") as caught:
        with_mixture(DataConfig(path=tmp_path / "mine.json"))
    assert message in str(caught.value)


def test_paths_of_a_mixture_are_seen_from_its_file(mixture: Path, tmp_path: Path) -> None:
    found = with_mixture(DataConfig(path=mixture / "mixture.json"))
    assert {name: source.path for name, source in found.sources.items()} == {
        name: mixture / name for name in ("code", "de", "en")
    }
    assert found == with_mixture(DataConfig(path=mixture))
    assert with_mixture(found) == found


def test_a_dataset_that_is_not_the_one_the_mixture_means_is_refused(mixed: dict[str, Any], mixture: Path) -> None:
    file = mixture / "other.json"
    file.write_text(json.dumps(listed(mixture, fingerprint="0" * 64)))
    mixed["data"]["path"] = str(file)
    with pytest.raises(ConfigError, match=r"data.sources.code: .*code has fingerprint [0-9a-f]{64}, 0{64} is asked"):
        train(mixed)


def test_weights_and_phases_name_sources_of_the_mixture(mixture: Path, dataset: Path) -> None:
    with pytest.raises(ConfigError, match=r"weights names 'fr', the sources are code, de, en"):
        with_mixture(DataConfig(path=mixture, weights={"fr": 1}))
    with pytest.raises(ConfigError, match=r"data.weights names 'fr', the sources are main"):
        with_mixture(DataConfig(path=dataset, weights={"fr": 1}))


def test_phases_must_follow_each_other(mixed: dict[str, Any]) -> None:
    mixed["data"]["phases"] = [CURRICULUM[1], CURRICULUM[0]]
    with pytest.raises(ConfigError, match=r"data.phases.1 ends at sample 16, where the phase before it has ended"):
        train(mixed)


def test_datasets_with_other_tokenizers_are_refused_naming_both(
    mixed: dict[str, Any], mixture: Path, tmp_path: Path
) -> None:
    from mypt_dist.data.prepare import PrepareSettings, prepare

    (tmp_path / "a.txt").write_text("words " * 500)
    prepare([str(tmp_path / "a.txt")], tmp_path / "char", PrepareSettings(tokenizer="char"))
    mixed["evaluation"] = {"sets": {"odd": {"path": str(tmp_path / "char")}}}
    with pytest.raises(
        ConfigError, match=r"evaluation.sets.odd was prepared .*\(char of .* than data.sources.code \(b"
    ):
        train(mixed)


def test_a_limit_without_an_end_is_a_contradiction() -> None:
    with pytest.raises(ValueError, match="repeat has no end"):
        DataConfig.model_validate({"sources": {"a": {"path": "x", "max_epochs": 1, "exhausted": "repeat"}}})
    once = DataConfig.model_validate({"sources": {"a": {"path": "x", "exhausted": "drop"}}})
    assert once.sources["a"].epochs == 1


def test_a_folder_that_is_a_dataset_is_read_as_one(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "both"
    shutil.copytree(dataset, copy)
    (copy / "mixture.json").write_text("{}")
    assert with_mixture(DataConfig(path=copy)).path == copy
