"""The loss of a vocabulary, forward and backward: in chunks, against the logits of the whole batch.

    python -m benchmarks.loss [--rounds 15] [--json PATH]

Both contestants of a case hold the same hidden states, 384 wide, and the same head with a bias, and compute the loss
and all three gradients:

* chunked: `mypt_dist.models.layers.cross_entropy`
* plain: ``F.cross_entropy(F.linear(hidden, weight, bias).float(), labels)``, as everyone writes it

Cases: 50 304 ids with 8 x 256 tokens, and 320 ids with 16 x 256, in fp32 and bf16 autocast. Memory is the peak of the
process less what it held before its first pass.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.race import Contestant, Ratio, Turns, markdown, parser, race, write_json

WIDTH, CONTEXT = 384, 256


@dataclass(frozen=True)
class Case:
    """What is compared, and for how long."""

    vocab: int
    batch: int
    passes: int
    """Of one turn."""
    speed: str
    memory: str
    """Targets, relative to plain. None where the head is a trifle: there the whole step is what counts."""


CASES = {
    "50304 ids": Case(50304, 8, 1, "≥ 0.9", "≤ 0.5"),
    "320 ids": Case(320, 16, 20, "", ""),
}


def chunked(hidden: Any, weight: Any, bias: Any, labels: Any) -> Any:
    """The mean over all tokens."""
    from mypt_dist.models.layers.cross_entropy import cross_entropy_sum

    return cross_entropy_sum(hidden, weight, bias, labels) / labels.numel()


def plain(hidden: Any, weight: Any, bias: Any, labels: Any) -> Any:
    """The mean over all tokens."""
    import torch.nn.functional as F

    logits = F.linear(hidden, weight, bias)
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())


CONTESTANTS: dict[str, Callable[..., Any]] = {"chunked": chunked, "plain": plain}


def contest(name: str, case: Case, bf16: bool, turns: Turns) -> None:
    """Passes until nobody asks for more."""
    import psutil
    import torch

    torch.manual_seed(0)
    leaves = [torch.randn(case.batch, CONTEXT, WIDTH), torch.randn(case.vocab, WIDTH) * 0.02, torch.zeros(case.vocab)]
    labels = torch.randint(case.vocab, (case.batch, CONTEXT))
    for leaf in leaves:
        leaf.requires_grad_()

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = CONTESTANTS[name](*leaves, labels)
        loss.backward()
        for leaf in leaves:
            leaf.grad = None

    before = psutil.Process().memory_info().rss / 2**20
    run()
    going = turns.ready()
    while going:
        begin = time.perf_counter()
        for _ in range(case.passes):
            run()
        going = turns.done(time.perf_counter() - begin, before_mib=before)


def main() -> None:
    """Run the races and print the table, or be one contestant."""
    options = parser("Time the chunked loss against the plain one, and compare its memory.")
    options.add_argument("--contestant", nargs=3, metavar=("NAME", "CASE", "PRECISION"))
    arguments = options.parse_args()
    if arguments.contestant:
        name, case, precision = arguments.contestant
        answers, sys.stdout = sys.stdout, sys.stderr
        contest(name, CASES[case], precision == "bf16", Turns(answers))
        return
    rows, figures = [], {}
    for name, case in CASES.items():
        for precision in ("fp32", "bf16"):
            seconds, mib = run_case(name, precision, arguments.rounds)
            ratio = Ratio.of(seconds["plain"], seconds["chunked"])
            memory = [f"{mib['chunked']:.0f}", f"{mib['plain']:.0f}", f"{mib['chunked'] / mib['plain']:.2f}"]
            rows.append([f"{name}, {precision}", *ratio.cells(), case.speed, *memory, case.memory])
            figures[f"{name} {precision}"] = {"seconds": seconds, "ratio": ratio.median, "mib": mib}
    header = ["speed / plain", "quartiles", "extremes", "target", "MiB", "plain MiB", "memory / plain", "target"]
    print(markdown(["case", *header], rows))
    write_json(arguments.json, figures)


def run_case(case: str, precision: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds by round, and peak memory above the start, of both contestants."""
    contestants = [
        Contestant.start(name, "benchmarks.loss", "--contestant", name, case, precision) for name in CONTESTANTS
    ]
    before = {contestant.name: contestant.turn()["before_mib"] for contestant in contestants}
    seconds = race(contestants, rounds)
    return seconds, {contestant.name: contestant.finish() - before[contestant.name] for contestant in contestants}


if __name__ == "__main__":
    main()
