"""Files of conversations to a dataset of packed rows: read and laid out, planned, then written row by row."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mypt_dist.chat import Conversation, KindWeights, Renderer, Template, read_conversation
from mypt_dist.chat.reading import Found
from mypt_dist.chat.render import missing_tokens
from mypt_dist.data.chat.lines import Line, Quarantine, chat_files, lines_of, quarantine
from mypt_dist.data.chat.plan import pack, padding
from mypt_dist.data.chat.records import FILE, Record, spelled_record, taken_out
from mypt_dist.data.chat.settings import ChatSettings
from mypt_dist.data.chat.spool import Spool
from mypt_dist.data.companions import CYCLE, Companion
from mypt_dist.data.entries import ChatCounts, ChatEntry, CompanionEntry, SourceEntry
from mypt_dist.data.foreign.tokenizer import named_tokenizer
from mypt_dist.data.lineage import made
from mypt_dist.data.manifest import SPLITS, Counts, DatasetManifest, Splits
from mypt_dist.data.prepare.writer import writing
from mypt_dist.data.progress import BytesDone, Progress
from mypt_dist.data.rewrite.blocks import Block
from mypt_dist.data.rewrite.draft import SHARD_TOKENS, Draft, draft
from mypt_dist.data.scan import FileScan
from mypt_dist.errors import ConfigError, MyptError
from mypt_dist.tokenizers import Tokenizer, with_specials

log = logging.getLogger(__name__)

HASH_KEY = b"mypt-dist conversations 1"


@dataclass(frozen=True, slots=True)
class ChatReport:
    """What was made."""

    manifest: DatasetManifest
    rows: dict[str, int]
    """By split."""

    @property
    def packed(self) -> float:
        """Share of positions in which conversations stand."""
        assert self.manifest.conversations is not None, "made of conversations"
        tokens = sum(self.rows.values()) * (self.manifest.row_length or 0)
        return 1 - self.manifest.conversations.counts.padding / max(1, tokens)


@dataclass(slots=True)
class _Source:
    """What came of one input."""

    path: str
    files: int = 0
    documents: int = 0
    bytes: int = 0
    content: Any = field(default_factory=sha256)

    def entry(self) -> SourceEntry:
        return SourceEntry(
            path=self.path,
            files=self.files,
            documents=self.documents,
            bytes=self.bytes,
            sha256=self.content.hexdigest(),
        )


def prepare_chat(
    inputs: Sequence[str | Path], out: Path, settings: ChatSettings, progress: Progress | None = None
) -> ChatReport:
    """Write the conversations of ``inputs`` to ``out`` as rows of ``context + 1`` tokens; the same bytes every time.

    ``out`` is a whole dataset in the end, or what it was before. Raises `ConfigError` for what does not fit together
    and where nothing is left to learn from, `DataError` for lines that cannot be used, unless they go into quarantine.
    """
    files = chat_files(inputs)
    template = Template.read(settings.template)
    weights = KindWeights.of(settings.weights)
    renderer = Renderer(_tokenizer(settings, template), template, weights)
    sources = [_Source(str(given)) for given in inputs]
    for file in files:
        sources[file.argument].files += 1
    done = BytesDone(sum(file.size for file in files), progress)
    row_length = settings.context + 1
    shard_tokens = max(1, SHARD_TOKENS // row_length) * row_length
    kinds: tuple[Companion, ...] = ("mask", "segments") if weights.are_equal else ("mask", "weights", "segments")
    with ExitStack() as stack:
        aside = stack.enter_context(quarantine(settings.quarantine))
        new = stack.enter_context(
            draft(out, renderer.tokenizer, kinds, overwrite=settings.overwrite, shard_tokens=shard_tokens)
        )
        spools = {name: stack.enter_context(closing(Spool(new.folder, name))) for name in SPLITS}
        reading = _Reading(settings, renderer, aside, spools, sources)
        for file in files:
            for line in lines_of(file, done):
                reading.take(line)
        aside.require_none()
        if not len(spools["train"]):
            raise ConfigError(
                f"no conversation is left to learn from: {aside.count:,} lines were put aside, "
                f"{reading.dropped:,} conversations dropped, {len(spools['val']):,} held out"
            )
        plans = {name: pack(spool.lengths(), row_length) for name, spool in spools.items()}
        packer = _Packer(new, renderer.tokenizer, weights.table(), row_length, "weights" in kinds)
        records = {name: packer.write(name, spools[name], plans[name]) for name in SPLITS if plans[name]}
        counts = reading.counts(
            learned=packer.learned,
            padding=sum(padding(plans[name], spools[name].lengths(), row_length) for name in SPLITS),
        )
        chat = ChatEntry(template=template, weights=dict(weights.by_kind), counts=counts, records=records)

        def describe(splits: Splits) -> DatasetManifest:
            total = Counts(files=len(files), documents=splits.train.documents + splits.val.documents)
            entries = tuple(source.entry() for source in sources)
            kept = {**settings.content(), "shard_tokens": shard_tokens}
            plain = DatasetManifest.create(renderer.tokenizer, splits, entries, total, kept)
            return plain.with_origin(made("prepare-chat")).with_rows(row_length, chat)

        return ChatReport(new.publish(describe), {name: len(plan) for name, plan in plans.items()})


def _tokenizer(settings: ChatSettings, template: Template) -> Tokenizer:
    tokenizer = named_tokenizer(settings.tokenizer).tokenizer
    missing = missing_tokens(tokenizer, template)
    if missing and not settings.add_specials:
        raise ConfigError(
            f"the template {template.name!r} needs control tokens that the {tokenizer.kind} tokenizer does not have: "
            f"{', '.join(missing)}. Have it get them: --add-specials; a model must then have rows for them"
        )
    return with_specials(tokenizer, missing) if missing else tokenizer


class _Reading:
    """Lines to laid out conversations."""

    def __init__(
        self,
        settings: ChatSettings,
        renderer: Renderer,
        aside: Quarantine,
        spools: dict[str, Spool],
        sources: list[_Source],
    ) -> None:
        self._settings, self._renderer, self._aside = settings, renderer, aside
        self._spools, self._sources = spools, sources
        self._limit = int(settings.val_fraction * 2**64)
        self._number = self._bad = self._unlearned = self._truncated = 0
        self.dropped = 0

    def take(self, line: Line) -> None:
        """Raises `DataError` where the disk refuses."""
        try:
            value = line.value()
            format_, found = read_conversation(value, self._settings.format)
            rendered = self._renderer.render(found.conversation)
        except MyptError as error:
            self._bad += 1
            self._aside.take(line, str(error))
            return
        whole, cut = rendered, len(rendered) > self._settings.context + 1
        if cut:
            if self._settings.too_long != "truncate":
                self._leave_out(line, len(rendered))
                return
            rendered = rendered[: self._settings.context + 1]
        if not rendered.learned and not self._is_allowed(line, cut):
            return
        self._truncated += cut
        digest = content_hash(found.conversation)
        split = "val" if int.from_bytes(digest[:8], "big") < self._limit else "train"
        source = self._sources[line.argument]
        source.documents += 1
        source.bytes += sum(len(part.text.encode()) for _, part in found.conversation.parts())
        source.content.update(digest)
        told = None if cut else self._renderer.texts(whole.ids, found.conversation)
        self._spools[split].add(rendered, self._record(line, (value, found, told), format_))
        self._number += 1

    def counts(self, *, learned: int, padding: int) -> ChatCounts:
        return ChatCounts(
            bad=self._bad,
            unlearned=self._unlearned,
            dropped=self.dropped,
            truncated=self._truncated,
            padding=padding,
            learned=learned,
        )

    def _leave_out(self, line: Line, tokens: int) -> None:
        if self._settings.too_long == "drop":
            self.dropped += 1
            return
        self._bad += 1
        self._aside.take(
            line,
            f"the conversation has {tokens:,} tokens, a row {self._settings.context + 1:,}: raise --context, or say "
            "--too-long drop or truncate",
        )

    def _is_allowed(self, line: Line, cut: bool) -> bool:
        self._unlearned += 1
        if not self._settings.allow_unlearned:
            why = "what is left of it" if cut else "the conversation"
            self._aside.take(line, f"{why} has nothing to learn: no turn of the assistant, or none with weight")
        return self._settings.allow_unlearned

    def _record(self, line: Line, content: tuple[Any, Found, list[str] | None], format_: Any) -> bytes:
        value, found, told = content
        rest, kept = taken_out(value, found, told)
        record = Record(
            number=self._number,
            format=format_,
            row=0,
            begin=0,
            tokens=0,
            cut=told is None,
            kept=kept,
            rest=rest,
            line=line.number,
            file=str(line.file),
        )
        return record.model_dump_json().encode()


class _Packer:
    """Laid out conversations to rows."""

    def __init__(
        self, new: Draft, tokenizer: Tokenizer, table: NDArray[np.float32], row_length: int, has_weights: bool
    ) -> None:
        self._new, self._table, self._row_length, self._has_weights = new, table, row_length, has_weights
        self._filler = tokenizer.eot_id
        self._segment = 0
        self.learned = 0

    def write(self, split: str, spool: Spool, plan: list[list[int]]) -> CompanionEntry:
        """The rows of a split and, in the order in which they were read, what its conversations have besides."""
        tokens, lengths = spool.seal(), spool.lengths()
        ends = np.cumsum(lengths)
        places = np.zeros((len(lengths), 2), np.int64)
        for number, row in enumerate(plan):
            places[row, 0] = number
            places[row, 1] = np.cumsum([0, *lengths[row[:-1]]])
            parts = [tokens[ends[index] - lengths[index] : ends[index]] for index in row]
            self._new.append(split, self._row(parts))
        path = f"{split}/{FILE}"
        scan = FileScan()
        with writing(self._new.folder / path), (self._new.folder / path).open("xb") as file:
            for line in _placed(spool, places.tolist(), lengths.tolist()):
                scan.add(line)
                file.write(line)
        return CompanionEntry(file=path, bytes=scan.bytes, sha256=scan.sha256, crc32=scan.crc32)

    def _row(self, parts: Sequence[NDArray[Any]]) -> Block:
        ids = np.full(self._row_length, self._filler, np.uint32)
        mask, segments = np.zeros(self._row_length, np.uint8), np.zeros(self._row_length, np.uint8)
        kinds = np.zeros(self._row_length, np.uint8)
        at = 0
        for part in parts:
            place = slice(at, at + len(part))
            ids[place], mask[place], kinds[place] = part["id"], part["mask"], part["kind"]
            # Nothing stands before the first token of a conversation that it could be told from.
            mask[at] = 0
            segments[place] = self._segment % CYCLE + 1
            self._segment += 1
            at += len(part)
        self.learned += int(np.count_nonzero(mask))
        beside: dict[Companion, NDArray[Any]] = {"mask": mask, "segments": segments}
        if self._has_weights:
            beside["weights"] = np.where(mask == 1, self._table[kinds], np.float32(0))
        return Block(ids, beside)


def content_hash(conversation: Conversation) -> bytes:
    """Of what is said and by whom, whatever file, tokenizer and template it is."""
    said = [[turn.role, turn.learned, [[part.kind, part.text] for part in turn.parts]] for turn in conversation.turns]
    return blake2b(json.dumps(said, ensure_ascii=False).encode(), digest_size=32, key=HASH_KEY).digest()


def _placed(spool: Spool, places: list[list[int]], lengths: list[int]) -> Iterator[bytes]:
    for number, (row, begin) in enumerate(places):
        record = Record.model_validate_json(spool.record(number))
        yield spelled_record(record.model_copy(update={"row": row, "begin": begin, "tokens": lengths[number]}))
