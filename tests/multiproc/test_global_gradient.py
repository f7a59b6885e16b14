"""The gradient is that of the global batch, whatever the masks, ranks and micro-batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.multiproc, pytest.mark.xdist_group("ranks")]

SCRIPT = Path(__file__).parent / "ragged_step.py"
TOLERANCE = 1e-6


def gradients(launch: Any, out: Path, ranks: int, *cells: str) -> list[dict[str, Any]]:
    """What a step on ``ranks`` ranks learns, for micro-batches of each size; ``2-mutant`` normalises wrongly."""
    launch(ranks, str(SCRIPT), str(out), *cells)
    found = []
    for cell in cells:
        with np.load(f"{out}-{cell}.npz", allow_pickle=False) as arrays:
            found.append(dict(arrays))
    return found


def relative_error(found: dict[str, Any], expected: dict[str, Any]) -> float:
    names = [name for name in expected if name not in ("loss", "tokens")]
    difference = np.sqrt(sum(((found[name] - expected[name]) ** 2).sum() for name in names))
    return float(difference / np.sqrt(sum((expected[name] ** 2).sum() for name in names)))


def test_ragged_masks_over_ranks_and_micro_batches_give_the_gradient_of_one_process(
    launch: Any, tmp_path: Path
) -> None:
    reference, *found = gradients(launch, tmp_path / "one", 1, "16", "2")
    *more, wrong = gradients(launch, tmp_path / "two", 2, "8", "2", "2-mutant")
    found += more + gradients(launch, tmp_path / "four", 4, "1")
    for gradient in found:
        assert gradient["tokens"] == reference["tokens"]
        assert float(gradient["loss"]) == pytest.approx(float(reference["loss"]), rel=TOLERANCE)
        assert relative_error(gradient, reference) <= TOLERANCE
    assert relative_error(wrong, reference) > 100 * TOLERANCE, "the test would not notice a wrong normalisation"
