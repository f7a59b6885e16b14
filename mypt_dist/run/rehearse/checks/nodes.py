"""Do the nodes agree about everything that all of them must see alike?"""

from collections import Counter
from collections.abc import Iterator, Sequence

from mypt_dist.run.rehearse.facts import NodeFacts
from mypt_dist.run.rehearse.findings import Finding

CLOCKS_S = 5.0
"""Seconds that clocks may differ. Nothing decides by a clock, but logs and curves are put in order by it."""


def node_ranks(facts: Sequence[NodeFacts]) -> Iterator[Finding]:
    """Node ranks that are given twice, left out or too large."""
    counts = Counter(fact.node_rank for fact in facts)
    for rank, times in sorted(counts.items()):
        if times > 1:
            yield _rank(f"{times} nodes have --node-rank {rank}: {_where(facts, 'node_rank', rank)}", facts)
        if not 0 <= rank < len(facts):
            yield _rank(f"--node-rank {rank} of {len(facts)} nodes", facts)


def node_counts(facts: Sequence[NodeFacts]) -> Iterator[Finding]:
    """Nodes that were told different numbers of nodes or ranks."""
    for name, option in (("nodes", "--nodes"), ("ranks", "--ranks")):
        if len({getattr(fact, name) for fact in facts}) > 1:
            yield Finding(
                option,
                "; ".join(f"node {fact.number} was told {getattr(fact, name)}" for fact in facts),
                "the smaller world starts without the rest, or the larger one waits for nodes that never come",
                f"the same {option} on every node",
            )


def code_versions(facts: Sequence[NodeFacts]) -> Iterator[Finding]:
    """Another version of the code on one node."""
    yield from _differs(
        facts,
        "code",
        "mypt_dist",
        "ranks that compute differently train one model: it is wrong without a word, or they wait for each other",
        "install the same version on every node, best from one shared folder",
    )


def run_files(facts: Sequence[NodeFacts]) -> Iterator[Finding]:
    """Another run file on one node."""
    yield from _differs(
        facts,
        "run",
        "the run file",
        "ranks follow different settings: another batch or another model on one node",
        "one run file in a folder that all nodes share",
    )


def dataset_content(facts: Sequence[NodeFacts]) -> Iterator[Finding]:
    """Another content of a dataset on one node."""
    for name in sorted({name for fact in facts for name in fact.datasets}):
        seen = {fact.number: fact.datasets.get(name, "not there") for fact in facts}
        if len(set(seen.values())) > 1:
            yield Finding(
                f"source {name}",
                "; ".join(f"node {number} has {content[:60]}" for number, content in seen.items()),
                "the ranks of a step read different texts under the same sample numbers, and a resume is never exact",
                "copy the dataset again, then on every node: mypt data verify FOLDER",
            )


def clocks(facts: Sequence[NodeFacts]) -> Iterator[Finding]:
    """Clocks that are seconds apart."""
    offsets = [fact.clock_offset for fact in facts]
    if facts and max(offsets) - min(offsets) > CLOCKS_S:
        ahead = max(facts, key=lambda fact: fact.clock_offset)
        yield Finding(
            f"node {ahead.number}",
            f"its clock is {max(offsets) - min(offsets):,.0f} s ahead of another node's",
            "logs of the nodes cannot be put in order, and curves jump when rank 0 moves to another node",
            "NTP on every node (timedatectl, chronyc tracking)",
            "warning",
        )


def folder_shared(facts: Sequence[NodeFacts]) -> Iterator[Finding]:
    """A run's folder that the nodes do not share, or that one of them cannot write."""
    for fact in facts:
        if fact.problem:
            yield Finding(
                f"node {fact.number}",
                fact.problem,
                "this node's ranks cannot write their part of a checkpoint",
                f"make {fact.folder} writable there",
            )
    everyone = {fact.number for fact in facts if not fact.problem}
    for fact in facts:
        unseen = sorted(everyone - set(fact.sees))
        if unseen and not fact.problem:
            yield Finding(
                "out",
                f"node {fact.number} does not see in {fact.folder} what node {unseen[0]} wrote there",
                "each node would keep its own part of every checkpoint: not one would be whole",
                "out=FOLDER on a disk that is mounted on every node",
            )


def _rank(found: str, facts: Sequence[NodeFacts]) -> Finding:
    return Finding(
        "--node-rank",
        found,
        "two nodes take the same ranks, or one waits for a place that does not exist: none of them starts",
        f"--node-rank 0 to {len(facts) - 1}, another on each node",
    )


def _differs(facts: Sequence[NodeFacts], name: str, what: str, why: str, remedy: str) -> Iterator[Finding]:
    seen = Counter(getattr(fact, name) for fact in facts)
    if len(seen) > 1:
        # Of two that differ, node 0 is taken to be right.
        first = getattr(facts[0], name)
        rarest = min(seen, key=lambda value: (seen[value], value == first))
        odd = next(fact for fact in facts if getattr(fact, name) == rarest)
        told = ", ".join(f"node {fact.number} {getattr(fact, name)[:12]}" for fact in facts)
        yield Finding(f"node {odd.number}", f"{what} differs: {told}", why, remedy)


def _where(facts: Sequence[NodeFacts], name: str, value: int) -> str:
    return ", ".join(f"node {fact.number}" for fact in facts if getattr(fact, name) == value)


CHECKS = (node_ranks, node_counts, code_versions, run_files, dataset_content, clocks, folder_shared)
