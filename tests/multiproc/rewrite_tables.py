"""Measure every engine against one process and write the table of `docs/reference/engines.md` anew: `make matrices`."""

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from conftest import start_ranks  # noqa: E402 - found by the line above, as pytest does
from engines import ENGINES  # noqa: E402
from test_equivalence import ACCUMULATIONS, MASKS, MUON, Run, cells_of, reference_of, runs, tolerance  # noqa: E402

PAGE = HERE.parents[1] / "docs/reference/engines.md"
BEGIN, END = "<!-- begin: make matrices -->", "<!-- end -->"


def row(title: str, found: dict[str, Run], reference: dict[str, Run], cells: list[str]) -> list[str]:
    """Largest error of loss and gradient norm, and that of the weights, for each cell that was run."""
    texts = []
    for cell in cells:
        if cell not in found:
            # Not run, to save time; but for Muon, which ZeRO refuses.
            texts.append("refused" if cell in MUON else "")
            continue
        error = found[cell].error(reference[reference_of(cell)])
        beyond = any(value > tolerance(cell)[what] for what, value in error.items())
        texts.append(f"{max(error['loss'], error['norm']):.0e} · {error['weights']:.0e}{' !' if beyond else ''}")
    return [title, *texts]


def table(optimizer: str, everything: dict[str, dict[str, Run]]) -> str:
    """Engines down, masks and accumulation across."""
    cells = [f"{masks}:{n}:{optimizer}" for masks in MASKS for n in ACCUMULATIONS]
    header = ["engine", *(f"{masks}, {n} micro" for masks in MASKS for n in ACCUMULATIONS)]
    rows = [row(engine, found, everything["1"], cells) for engine, found in everything.items() if engine != "1"]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---", *(["--:"] * len(cells))], *rows])


def special(everything: dict[str, dict[str, Run]]) -> str:
    """The gradient itself, bf16, and what changes how it is computed but not what."""
    cells = ["ragged:4:sgd", "ragged:4:adamw:bf16", "ragged:4:sgd:recomputed", "ragged:4:sgd:compiled"]
    header = ["engine", "the gradient alone", "bf16", "activation checkpointing", "compiled blocks"]
    rows = [row(engine, found, everything["1"], cells) for engine, found in everything.items() if engine != "1"]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---", *(["--:"] * len(cells))], *rows])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        everything = {}
        for engine in ENGINES:
            print(engine, file=sys.stderr, flush=True)
            everything[engine] = runs(start_ranks, Path(folder) / engine, engine, cells_of(engine))
    parts = ["AdamW:", table("adamw", everything), "Muon:", table("muon", everything), "And:", special(everything)]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text("\n\n".join([f"{before}{BEGIN}", *parts, f"{END}{after}"]))


if __name__ == "__main__":
    main()
