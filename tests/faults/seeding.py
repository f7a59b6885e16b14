"""Where mistakes are seeded: a small sound run with its data, its folder and two virtual nodes."""

import dataclasses
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mypt_dist.config import validate, with_overrides
from mypt_dist.launch.plan import Place
from mypt_dist.run.config import RunConfig
from mypt_dist.run.rehearse import checks
from mypt_dist.run.rehearse.case import Case
from mypt_dist.run.rehearse.facts import NodeFacts, tell
from mypt_dist.run.rehearse.findings import Finding
from mypt_dist.run.rehearse.nodes import VirtualNode, ask_nodes, make_nodes
from mypt_dist.run.rehearse.scale import OUT, World
from mypt_dist.run.rehearse.surroundings import observe

TWO = World(2, 2)
AS_MEANT = Place(ranks=2, nodes=2)


@dataclass
class Scenery:
    """``found`` and ``asked`` are what the rehearsal's first two stages find."""

    mapping: Mapping[str, Any]
    dataset: Path
    folder: Path

    def config(self, *overrides: str) -> RunConfig:
        return validate(RunConfig, with_overrides(self.mapping, overrides), "the run")

    def found(
        self,
        *overrides: str,
        target: str = "ddp",
        place: Place = AS_MEANT,
        environ: Mapping[str, str] | None = None,
        seen: Mapping[str, Any] | None = None,
    ) -> list[Finding]:
        """``seen``: what the machine says instead of the truth."""
        config = self.config(*overrides)
        around = dataclasses.replace(observe(config, target, place, environ or {}), **(seen or {}))
        return checks.findings(Case(config, target, place, around))

    def nodes(self, data: Path | None = None) -> list[VirtualNode]:
        config = self.config("out=shared/run", *([f"data.path={data}"] if data else []))
        assert config.out == OUT
        return make_nodes(self.folder / "nodes", config, TWO, "seeded")

    def asked(self, nodes: Sequence[VirtualNode]) -> list[Finding]:
        facts, problems = ask_nodes(nodes)
        assert problems == {}
        return checks.node_findings(facts)

    def facts(self, number: int, node_rank: int | None = None, nodes: int = 2, ahead: float = 0) -> NodeFacts:
        """Of a node of this process, whose clock is so many seconds ahead."""
        import json
        import time

        path = self.folder / "run.json"
        path.write_text(json.dumps(self.mapping))
        rank = number if node_rank is None else node_rank
        facts = tell(path, (number, rank, nodes, 2), clock=lambda: time.time() + ahead)
        return facts.model_copy(update={"sees": (0, 1)})

    def train(self) -> None:
        """One step, so that there is a checkpoint."""
        import mypt_dist

        mypt_dist.train({**self.mapping, "train": {**self.mapping["train"], "stop_after": 1}})

    def launch_file(self, text: str) -> str:
        path = self.folder / "mine.yaml"
        path.write_text(text)
        return str(path)

    def copy_of_data(self) -> Path:
        return Path(shutil.copytree(self.dataset, self.folder / "copy"))

    def char_data(self) -> Path:
        return self._prepared("char", 1)

    def other_data(self) -> Path:
        return self._prepared("byte", 2)

    def _prepared(self, tokenizer: Any, seed: int) -> Path:
        from mypt_dist.data.prepare import PrepareSettings, prepare

        text, out = self.folder / f"text-{seed}", self.folder / f"data-{seed}"
        text.mkdir()
        letters = random.Random(seed)
        for number in range(60):
            (text / f"{number}.txt").write_text("".join(letters.choices("abcdef ", k=400)))
        prepare([str(text)], out, PrepareSettings(tokenizer=tokenizer, val_fraction=0.1, workers=1))
        return out


def with_header(shard: Path, tokens: bytes) -> bytes:
    """The bytes of a shard with other tokens, which its header does not speak of."""
    return shard.read_bytes()[:64] + tokens
