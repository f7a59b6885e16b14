"""Ties damaged data to the run that meets it: its settings, its journal, and what its checkpoint knows."""

from mypt_dist.checkpoint import Checkpoint
from mypt_dist.engine import Engine
from mypt_dist.run.config import RunConfig
from mypt_dist.run.data import RunData
from mypt_dist.run.record import RunRecord
from mypt_dist.training.damage import DamageBook


def damage_book(
    config: RunConfig, data: RunData, engine: Engine, resumed: Checkpoint | None, record: RunRecord
) -> DamageBook:
    """The book of a run. Blocks that its checkpoint skipped are skipped again, even if they were repaired."""

    def tell(step: int, windows: int, blocks: list[str]) -> None:
        if record.journal is not None and blocks:
            record.journal.event("damage", step=step, skipped_windows=windows, blocks=list(blocks))

    book = DamageBook(
        world=engine,
        total=sum(stream.blocks() for stream in data.train),
        limit=config.data.max_damaged,
        skips=config.data.on_damage == "skip",
        tell=tell,
    )
    saved = resumed.manifest.data.get("damage") if resumed else None
    data.mark_damaged(book.resume(saved if isinstance(saved, dict) else {}))
    return book
