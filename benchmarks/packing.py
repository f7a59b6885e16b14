"""Conversations packed in rows, against a conversation a row: the time to learn all of them once.

    python -m benchmarks.packing [--rounds 15] [--json PATH]

The same conversations, whose lengths are log-normal (a median of some 130 tokens, a tenth above 400, at most 513), the
same model and the same loss, forward and backward:

* packed: rows made by ``mypt data prepare-chat``, 4 a pass, attention and positions within each conversation
* padded: 4 conversations a pass, in random order, filled up to the longest of the pass, as collators of others do
* to context: the same, filled up to the context

Printed beside the ratios: the share of positions in which conversations stand, and whether all learn equally much.
"""

import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.race import Contestant, Ratio, Turns, markdown, parser, race, write_json

CONTEXT, ROWS, CONVERSATIONS = 512, 4, 64
LAYERS, WIDTH = 2, 128
NAMES = ("packed", "padded", "to context")


def write_conversations(path: Path) -> None:
    """One question and one answer each."""
    rng = random.Random(0)
    with path.open("w") as file:
        for _ in range(CONVERSATIONS):
            size = int(min(500, max(8, rng.lognormvariate(4.8, 0.9))))
            messages = [
                {"role": "user", "content": "q" * (size // 4)},
                {"role": "assistant", "content": "".join(rng.choices("abcdefgh ", k=size - size // 4))},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")


def prepare(folder: Path) -> Any:
    """The conversations of ``folder`` as a dataset there."""
    from mypt_dist.data.chat import ChatSettings, prepare_chat

    settings = ChatSettings(context=CONTEXT, tokenizer="byte", val_fraction=0)
    return prepare_chat([folder / "chat.jsonl"], folder / "data", settings)


def packed(folder: Path) -> list[Any]:
    """Every row once."""
    from mypt_dist.data.loader import TokenGather
    from mypt_dist.data.manifest import DatasetManifest
    from mypt_dist.data.order import Order, SourceShape
    from mypt_dist.data.stream import TokenStream

    manifest = DatasetManifest.read(folder / "data")
    stream = TokenStream.open(folder / "data", manifest, "train")
    order = Order([SourceShape("main", len(stream), rows=True)], context=CONTEXT, seed=0)
    gather = TokenGather([stream], manifest.load_tokenizer().byte_lengths(), manifest.vocab_size)
    count = len(stream) // (CONTEXT + 1)
    return [gather.batch(order.samples(i, min(ROWS, count - i)), CONTEXT) for i in range(0, count, ROWS)]


def padded(folder: Path, *, to_context: bool) -> list[Any]:
    """Every conversation once, one a row."""
    import torch

    from mypt_dist.chat import Renderer, read_conversation
    from mypt_dist.data.batch import IGNORE, Batch
    from mypt_dist.tokenizers import ByteTokenizer

    renderer = Renderer(ByteTokenizer())
    lines = (folder / "chat.jsonl").read_text().splitlines()
    found = [renderer.render(read_conversation(json.loads(line))[1].conversation) for line in lines]
    random.Random(1).shuffle(found)

    def batches() -> Iterator[Batch]:
        for i in range(0, len(found), ROWS):
            part = found[i : i + ROWS]
            length = CONTEXT + 1 if to_context else max(map(len, part))
            ids = torch.zeros((len(part), length), dtype=torch.int64)
            labels = torch.full((len(part), length), IGNORE)
            for row, one in enumerate(part):
                tokens = torch.from_numpy(one.ids.astype("int64"))
                ids[row, : len(one)] = tokens
                labels[row, : len(one)] = torch.where(torch.from_numpy(one.mask) == 1, tokens, IGNORE)
            learned = int((labels[:, 1:] != IGNORE).sum())
            yield Batch(ids[:, :-1], labels[:, 1:], learned)

    return list(batches())


def contest(name: str, folder: Path, turns: Turns) -> None:
    """Learn everything once a turn until nobody asks for more."""
    import torch

    from mypt_dist.models.gpt import GPTConfig

    torch.manual_seed(0)
    shape = {"vocab_size": 320, "context": CONTEXT, "n_layer": LAYERS, "n_head": 4, "n_embd": WIDTH}
    model = GPTConfig(**shape, dropout=0.0).build()
    batches = packed(folder) if name == "packed" else padded(folder, to_context=name == "to context")
    targets = sum(batch.num_targets for batch in batches)
    positions = sum(batch.input_ids.numel() for batch in batches)

    def epoch() -> float:
        total = 0.0
        for batch in batches:
            loss = model(batch.input_ids, **batch.keywords())
            (loss / targets).backward()
            total += float(loss.detach())
        model.zero_grad(set_to_none=True)
        return total / targets

    mean = epoch()
    going = turns.ready()
    while going:
        begin = time.perf_counter()
        epoch()
        going = turns.done(time.perf_counter() - begin, targets=targets, positions=positions, loss=mean)


def main() -> None:
    """Run the race and print the table, or be one contestant."""
    options = parser("Time packed conversations against padded ones.")
    options.add_argument("--contestant", nargs=2, metavar=("NAME", "FOLDER"))
    arguments = options.parse_args()
    if arguments.contestant:
        answers, sys.stdout = sys.stdout, sys.stderr
        contest(arguments.contestant[0], Path(arguments.contestant[1]), Turns(answers))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_conversations(folder / "chat.jsonl")
        report = prepare(folder)
        tokens = report.manifest.row_length * report.rows["train"]
        held = tokens - report.manifest.conversations.counts.padding
        contestants = [
            Contestant.start(name, "benchmarks.packing", "--contestant", name, str(folder)) for name in NAMES
        ]
        told = {contestant.name: contestant.turn() for contestant in contestants}
        seconds = race(contestants, arguments.rounds)
        for contestant in contestants:
            contestant.finish()
    losses = [answer["loss"] for answer in told.values()]
    assert len({answer["targets"] for answer in told.values()}) == 1, "all learn the same tokens"
    assert max(losses) / min(losses) < 1 + 1e-5, "and the same of them"
    rows = [
        [name, *Ratio.of(seconds["padded"], seconds[name]).cells(), f"{100 * used:.1f} %"]
        for name in NAMES
        for used in [report.packed if name == "packed" else held / told[name]["positions"]]
    ]
    print(markdown(["contestant", "speed / padded", "quartiles", "extremes", "positions used"], rows))
    write_json(arguments.json, {"seconds": seconds, "told": told})


if __name__ == "__main__":
    main()
