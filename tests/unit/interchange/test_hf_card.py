"""The card says what the model is, what it learned from and how, and how well: for people, and safe to render."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from foreign_models import MODELS, save_model, untrained

from mypt_dist.interchange.hf.curves import MAX_POINTS, loss_curves
from mypt_dist.interchange.hf.export import ExportOptions, export_hf

DATA = {
    "fingerprint": "f" * 64,
    "sources": {
        "web|\n<b>": {
            "weight": 0.25,
            "fingerprint": "a" * 64,
            "lineage": {"made_by": "merge", "tools": {}, "parents": ["b" * 64, "c" * 64], "inputs": ["d" * 64]},
        }
    },
}
RUN = {
    "name": "small",
    "model": MODELS["qwen3"].model_dump(mode="json"),
    "train": {"steps": 10, "batch_size": 8, "precision": "bf16", "schedule": {"shape": "cosine", "warmup": 2}},
    "optimizer": {"type": "adamw", "lr": 0.001},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("card")
    config = MODELS["qwen3"]
    save_model(
        root / "run", untrained(config), config, describe={"data": DATA, "run": RUN, "metrics": {"val/loss": 1.25}}
    )
    rows = [{"step": step, "time": 0, "train/loss": 5 / step, "val/loss": None} for step in range(1, 10)]
    (root / "run/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    export_hf(root / "run", root / "out", ExportOptions(license="mit", name="A model: ours"))
    return root / "out"


def test_the_card_names_architecture_data_recipe_and_numbers(folder: Path) -> None:
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "mit"
    assert yaml.safe_load(front)["library_name"] == "transformers"
    lines = text.splitlines()
    assert "# A model: ours" in lines
    assert "Qwen3ForCausalLM" in text
    assert "| n_kv_head | 1 |" in lines
    assert "| steps | 7 of 10 |" in lines
    assert "| tokens | 1,792, 256 a step (8 windows of 32) |" in lines
    assert '| schedule | shape "cosine", warmup 2 |' in lines
    assert "| val/loss | 1.25 |" in lines
    assert f"Fingerprint of all of it: `{'f' * 64}`." in text
    assert "The last 46 of 320 rows of the embedding are of no token." in text


def test_names_of_others_stay_in_their_cells(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    assert f"| web\\| &lt;b> | 0.25 | `{'a' * 64}` | merge of 2 datasets | 1 |" in text.splitlines()


def test_the_curve_ends_where_the_checkpoint_is(folder: Path) -> None:
    picture = ElementTree.parse(folder / "curves.svg").getroot()
    (line,) = [element for element in picture if element.tag.endswith("polyline")]
    assert len(line.attrib["points"].split()) == 7
    assert "![training and validation loss](curves.svg)" in (folder / "README.md").read_text()


def test_a_curve_needs_two_values_and_thins_many_out() -> None:
    assert loss_curves([]) is None
    assert loss_curves([{"step": 1, "train/loss": 2.0}, {"step": 2, "train/loss": None}]) is None
    rows = [{"step": step, "train/loss": 1.0} for step in range(10 * MAX_POINTS + 3)]
    picture = ElementTree.fromstring(loss_curves(rows) or "")
    (line,) = [element for element in picture if element.tag.endswith("polyline")]
    points = line.attrib["points"].split()
    assert MAX_POINTS - 100 < len(points) <= MAX_POINTS + 1
    assert points[-1].startswith("672.0,")
