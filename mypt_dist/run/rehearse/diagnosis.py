"""What did the ranks die of? From what the nodes have said, the first thing that explains it."""

import re
from collections.abc import Mapping

from mypt_dist.run.rehearse.findings import Finding, split_message

SAID = re.compile(r"^(?:\[[^\]]*\]:?\s*)*mypt: (?:\[rank \d+\] )?(.+(?:\n  .+)*)", re.MULTILINE)
"""One error of ours, with its indented lines, whatever a launcher put before it."""

KNOWN = (
    (
        re.compile(r"(?:EADDRINUSE|(?i:address already in use)|Port \S+ is already in use)"),
        "the port of the meeting point is in use",
        "another --port on every node",
    ),
    (
        re.compile(r"(?:Name or service not known|getaddrinfo|nodename nor servname|Temporary failure in name)"),
        "the address of node 0 cannot be resolved",
        "an --address that every node resolves",
    ),
    (
        re.compile(r"(?:DistStoreError|DistNetworkError|RendezvousTimeoutError|timed out after \d+)"),
        "the nodes did not find each other",
        "the same --address, --port, --nodes and --ranks on every node, and another --node-rank on each",
    ),
    (re.compile(r"Too many open files"), "too many open files", "ulimit -n 65536 before the launch"),
    (re.compile(r"No space left on device"), "the disk is full", "make room, or out=FOLDER on another disk"),
    (re.compile(r"(?:MemoryError|Cannot allocate memory)"), "out of memory", "fewer ranks on this machine"),
)
FOLLOWS = ("another rank", "stopped by SIG")
"""What ranks say because of what happened to others."""


def diagnose(outputs: Mapping[int, str], where: str) -> Finding:
    """Of what each node said. Our own errors come first, then known words of the libraries, then the last line."""
    why = "the ranks ended before they should"
    errors = [(node, text) for node, said in sorted(outputs.items()) for text in SAID.findall(said)]
    errors.sort(key=lambda error: error[1].startswith(FOLLOWS))
    if errors:
        node, text = errors[0]
        found, remedy = split_message(text, "see the message, and docs/how-to/launch.md")
        return Finding(f"node {node}", found, why, remedy)
    for node, said in sorted(outputs.items()):
        for pattern, found, remedy in KNOWN:
            if pattern.search(said):
                return Finding(f"node {node}", found, why, remedy)
    last = next((line for said in outputs.values() for line in reversed(said.splitlines()) if line.strip()), "nothing")
    return Finding(
        where, f"the last line was: {last.strip()[:200]}", why, "run it with --keep DIR and read node-*/*.log"
    )
