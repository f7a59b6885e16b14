"""Every engine computes what one process computes: the same losses, gradient norms and weights after five steps."""

import itertools
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import ENGINES
from numpy.typing import NDArray

# Many starts of ranks in one test or fixture: on a busy machine they take longer than a test may otherwise.
pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(1200)]

SCRIPT = Path(__file__).parent / "five_steps.py"

MASKS, ACCUMULATIONS = ("plain", "ragged", "packed"), ("1", "4")
CELLS = [f"{masks}:{n}:adamw" for masks, n in itertools.product(MASKS, ACCUMULATIONS)]
MUON = [f"{masks}:{n}:muon" for masks, n in itertools.product(MASKS, ACCUMULATIONS)]
GRADIENT = [f"ragged:{n}:sgd" for n in ACCUMULATIONS]
BF16 = [f"ragged:{n}:adamw:bf16" for n in ACCUMULATIONS]
HELD = "ragged:4:sgd:held"
RECOMPUTED, COMPILED = "ragged:4:sgd:recomputed", "ragged:4:sgd:compiled"
MUTANT = "ragged:4:sgd:mutant"


@dataclass(frozen=True)
class Run:
    """What one cell gave, put together from all ranks."""

    losses: NDArray[np.float64]
    norms: NDArray[np.float64]
    weights: NDArray[np.float64]
    change: NDArray[np.float64]

    def error(self, reference: "Run") -> dict[str, float]:
        """Largest relative differences. That of the weights is in units of the way they have come."""
        return {
            "loss": float(np.abs(self.losses / reference.losses - 1).max()),
            "norm": float(np.abs(self.norms / reference.norms - 1).max()),
            "weights": float(np.linalg.norm(self.weights - reference.weights) / np.linalg.norm(reference.change)),
        }


def runs(forked: Any, folder: Path, engine: str, cells: list[str]) -> dict[str, Run]:
    """All ``cells`` under one start of ``engine``."""
    ranks, environment = ENGINES[engine]
    folder.mkdir()
    forked(ranks, str(SCRIPT), str(folder), *cells, **environment)
    return {cell: _joined(folder, cell, ranks) for cell in cells}


def _joined(folder: Path, cell: str, ranks: int) -> Run:
    pieces: defaultdict[tuple[str, str], list[tuple[int, NDArray[np.float64]]]] = defaultdict(list)
    for rank in range(ranks):
        with np.load(folder / f"{cell}-{rank}.npz", allow_pickle=False) as arrays:
            losses, norms = arrays["losses"], arrays["norms"]
            for key in arrays:
                kind, _, rest = key.partition("/")
                if rest:
                    name, _, start = rest.rpartition("@")
                    pieces[kind, name].append((int(start), arrays[key]))
    whole = {key: _contiguous(parts) for key, parts in sorted(pieces.items())}
    now, first = (np.concatenate([whole[key] for key in whole if key[0] == kind]) for kind in ("now", "first"))
    return Run(losses, norms, now, now - first)


def _contiguous(parts: list[tuple[int, NDArray[np.float64]]]) -> NDArray[np.float64]:
    end = 0
    for start, values in sorted(parts, key=lambda part: part[0]):
        assert start == end, "ranges neither overlap nor leave gaps"
        end += len(values)
    return np.concatenate([values for _, values in sorted(parts, key=lambda part: part[0])])


@pytest.fixture(scope="module")
def reference(forked: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    return runs(forked, tmp_path_factory.mktemp("one") / "cells", "1", cells_of("1"))


def cells_of(engine: str) -> list[str]:
    """What ``engine`` is asked for. ZeRO's flat partitions cannot serve Muon."""
    muon = [] if engine.startswith("ZeRO") else MUON
    held = [HELD] if "SDP" in engine else []
    # Compiling takes as long as all the rest: one engine of each kind.
    compiled = [COMPILED] if engine in ("DDP x2", "FSDP2 x2", "ZeRO-3 x2") else []
    return [*CELLS, *muon, *GRADIENT, *BF16, RECOMPUTED, *held, *compiled]


def reference_of(cell: str) -> str:
    """The cell of one process that ``cell`` must agree with."""
    return ":".join(part for part in cell.split(":") if part not in ("held", "recomputed", "compiled", "mutant"))


TOLERANCES = {
    "sgd": {"loss": 1e-6, "norm": 1e-6, "weights": 1e-6},
    "adamw": {"loss": 1e-6, "norm": 1e-6, "weights": 2e-4},
    # Newton-Schulz steps are computed in bf16: sums in another order are rounded to other values.
    "muon": {"loss": 1e-5, "norm": 1e-4, "weights": 2e-2},
    "bf16": {"loss": 2e-4, "norm": 5e-3, "weights": 1e-1},
}
"""By optimizer, or for bf16. AdamW's first steps are signs of gradients, whose zeros are noise."""


def tolerance(cell: str) -> dict[str, float]:
    """Largest errors that ``cell`` is allowed."""
    return TOLERANCES["bf16" if cell.endswith("bf16") else cell.split(":")[2]]


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "1"])
def test_five_steps_are_those_of_one_process(
    engine: str, reference: dict[str, Run], forked: Any, tmp_path: Path
) -> None:
    found = runs(forked, tmp_path / "cells", engine, [*cells_of(engine), MUTANT])
    mutant = found.pop(MUTANT).error(reference[reference_of(MUTANT)])
    errors = {cell: run.error(reference[reference_of(cell)]) for cell, run in found.items()}
    beyond = {
        f"{cell} {what}": value
        for cell, error in errors.items()
        for what, value in error.items()
        if value > tolerance(cell)[what]
    }
    assert not beyond
    assert mutant["weights"] > 1000 * tolerance(MUTANT)["weights"], "a wrong normalisation would not be noticed"
