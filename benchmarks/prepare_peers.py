"""How other programs make token files of text files: contestants of `benchmarks.prepare`.

Each tokenizes with tiktoken's GPT-2 encoding, ends every document with its token, and may use all cores.
"""

import os
import time
from pathlib import Path
from typing import Any

END = 50256
COLUMN = {"ids": [[0]]}


def encoding() -> Any:
    """tiktoken's own GPT-2 encoding, from the merge ranks that are shipped."""
    import tiktoken
    from tiktoken_ext.openai_public import r50k_pat_str

    from mypt_dist.tokenizers.gpt2 import merge_ranks

    specials = {"<|endoftext|>": END}
    return tiktoken.Encoding("r50k", pat_str=r50k_pat_str, mergeable_ranks=merge_ranks(), special_tokens=specials)


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


_encoding: Any = None


def _ids(text: str) -> list[int]:
    global _encoding  # noqa: PLW0603 - once in each of the peers' worker processes
    _encoding = _encoding or encoding()
    ids: list[int] = [*_encoding.encode_ordinary(text), END]
    return ids


def _mapped(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
    ids = [_ids(text) for text in batch["text"]]
    return {"ids": ids, "length": [len(document) for document in ids]}


def time_datasets(corpus: Path, out: Path) -> float:
    """Seconds of Hugging Face datasets: text files, ``map`` in batches on all cores, then one uint16 memmap."""
    import numpy as np
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    files = [str(path) for path in sorted(corpus.rglob("*.txt"))]
    start = time.perf_counter()
    texts = load_dataset(
        "text", data_files=files, sample_by="document", split="train", cache_dir=str(out.parent / "cache")
    )
    tokens = texts.map(_mapped, batched=True, batch_size=64, num_proc=cores(), remove_columns=["text"])
    out.mkdir()
    target = np.memmap(out / "train.bin", np.uint16, "w+", shape=(int(np.sum(tokens["length"], dtype=np.uint64)),))
    begin = 0
    for batch in tokens.with_format("arrow", columns=["ids"]).iter(256):
        ids = batch["ids"].combine_chunks().flatten().to_numpy()
        target[begin : begin + len(ids)] = ids
        begin += len(ids)
    target.flush()
    assert begin == len(target)
    return time.perf_counter() - start


def _read(path: str) -> Any:
    import torch

    yield torch.tensor(_ids(Path(path).read_text(encoding="utf-8")), dtype=torch.int32)


def time_litdata(corpus: Path, out: Path) -> float:
    """Seconds of litdata's ``optimize`` with its loader of tokens, on all cores."""
    from litdata import TokensLoader, optimize

    files = [str(path) for path in sorted(corpus.rglob("*.txt"))]
    start = time.perf_counter()
    optimize(
        _read, files, str(out), num_workers=cores(), chunk_bytes="64MB", item_loader=TokensLoader(), reorder_files=False
    )
    return time.perf_counter() - start
