"""What a node says of itself: a process in the node's own surroundings, started by the rehearsal.

``python -m mypt_dist.run.rehearse.facts RUNFILE NUMBER NODE_RANK NODES RANKS`` leaves a sign in the run's folder, says
that it has, waits for a line, looks for the signs of the others, and prints its facts as one line of JSON.
"""

import hashlib
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

import mypt_dist
from mypt_dist.config import Config
from mypt_dist.config.strict_json import parse_json
from mypt_dist.data.place import DatasetPlace
from mypt_dist.data.remote.folder import read_manifest
from mypt_dist.errors import ConfigError, MyptError
from mypt_dist.run.config import RunConfig

READY = "ready"
SIGN = ".rehearsal-node-"


class NodeFacts(Config):
    """Everything that all nodes must see alike, and who says so."""

    number: int
    """Which of the virtual nodes it is, whatever it was told."""
    node_rank: int
    nodes: int
    ranks: int
    """These three as it was told."""
    host: str = ""
    code: str = ""
    """sha256 of the sources of the package that it runs."""
    run: str = ""
    """sha256 of its resolved run file."""
    datasets: dict[str, str] = {}
    """Fingerprints by source, or what is wrong with it."""
    clock_offset: float = 0.0
    """Seconds from the start of the machine to its 1970."""
    folder: str = ""
    """The run's folder as this node calls it."""
    sees: tuple[int, ...] = ()
    """Nodes whose sign it found there."""
    problem: str | None = None
    """Why it could not leave its own."""


def parse_facts(line: str) -> NodeFacts:
    """Raises `ConfigError` for a line that holds none."""
    try:
        return NodeFacts.model_validate(parse_json(line, "what a node said"))
    except ValidationError:
        raise ConfigError(f"what a node said makes no sense: {line[:200]}") from None


def code_hash(package: Path) -> str:
    """sha256 of every source file below ``package``, with its name."""
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        total.update(f"{path.relative_to(package)}\n".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def leave_sign(folder: Path, number: int) -> str | None:
    """Write this node's sign into the run's folder. Returns why it could not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{SIGN}{number}").write_text(str(number), encoding="ascii")
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror}"
    return None


def signs(folder: Path) -> tuple[int, ...]:
    """Numbers of the nodes that left theirs in ``folder``."""
    found = (path.name.removeprefix(SIGN) for path in folder.glob(f"{SIGN}*"))
    return tuple(sorted(int(number) for number in found if number.isdigit()))


def tell(run_file: Path, told: tuple[int, int, int, int], clock: Callable[[], float] = time.time) -> NodeFacts:
    """The facts of the node that ``told`` describes: number, node rank, nodes, ranks. Raises `MyptError`."""
    number, node_rank, nodes, ranks = told
    config = RunConfig.load(str(run_file))
    return NodeFacts(
        number=number,
        node_rank=node_rank,
        nodes=nodes,
        ranks=ranks,
        host=socket.gethostname(),
        code=code_hash(Path(mypt_dist.__file__).parent),
        run=hashlib.sha256(config.model_dump_json().encode()).hexdigest(),
        datasets={name: _content(source.path) for name, source in config.data.named_sources().items()},
        clock_offset=clock() - time.monotonic(),
        folder=str(config.out or config.folder),
    )


def _content(place: DatasetPlace) -> str:
    try:
        return read_manifest(place).fingerprint
    except MyptError as error:
        return str(error).splitlines()[0].partition(";")[0]


def main(arguments: list[str]) -> int:
    """Talk to the rehearsal over stdin and stdout."""
    run_file = Path(arguments[0])
    number, node_rank, nodes, ranks = map(int, arguments[1:])
    try:
        facts = tell(run_file, (number, node_rank, nodes, ranks))
        folder = RunConfig.load(str(run_file)).folder
    except MyptError as error:
        sys.stderr.write(f"mypt: {error}\n")
        return error.exit_code
    problem = leave_sign(folder, number)
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    sys.stdin.readline()
    facts = facts.model_copy(update={"problem": problem, "sees": signs(folder)})
    sys.stdout.write(f"{facts.model_dump_json()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
