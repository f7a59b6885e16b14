"""Texts to prepare, and what became of them."""

import gzip
import hashlib
import json
import random

import numpy as np
import zstandard

from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.data.prepare import PrepareSettings, prepare
from mypt_dist.data.prepare.documents import Digest, is_held_out
from mypt_dist.data.shards import open_shard

WORDS = ("alpha", "Beta", "gamma's", "42", "naïve", "世界", "\n", "    ", "😀", "x=y")


def text_of(seed, words=200):
    generator = random.Random(seed)
    return " ".join(generator.choice(WORDS) for _ in range(words))


def write_corpus(folder, documents=60):
    """Files of every shape and packing; returns the texts in the order in which they are read."""
    folder.mkdir()
    texts = [text_of(i) for i in range(documents)]
    for i, text in enumerate(texts):
        (folder / f"{i:03d}.txt").write_text(text, newline="")
    lines = [text_of(1000 + i, 20) for i in range(documents)]
    rows = "".join(json.dumps({"text": line, "id": i}) + "\n" for i, line in enumerate(lines))
    (folder / "a.jsonl").write_text(rows)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(rows.replace('"id"', '"no"').encode(), mtime=0))
    (folder / "c.md.zst").write_bytes(zstandard.ZstdCompressor().compress(text_of("zst").encode()))
    (folder / "d.py.gz").write_bytes(gzip.compress(text_of("gz").encode(), mtime=0))
    return [*texts, *lines, *lines, text_of("zst"), text_of("gz")]


def tokens_of(folder, split):
    manifest = DatasetManifest.read(folder)
    parts = [open_shard(folder, entry, manifest.dtype) for entry in manifest.split(split).shards]
    return np.concatenate(parts).tolist() if parts else []


def documents_of(folder, split):
    """The decoded documents of a split."""
    manifest = DatasetManifest.read(folder)
    tokenizer, documents, current = manifest.load_tokenizer(), [], []
    for token in tokens_of(folder, split):
        if token == manifest.eot_id:
            documents.append(tokenizer.decode(current))
            current = []
        else:
            current.append(token)
    assert not current, "a split ends with the end of a document"
    return documents


def files_of(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def held_out(text, fraction):
    digest = Digest()
    digest.update(text)
    return is_held_out(digest.digest(), fraction)


def run(inputs, out, progress=None, **settings):
    settings = {"tokenizer": "byte", "val_fraction": 0.0, "workers": 2, **settings}
    return prepare(inputs, out, PrepareSettings(**settings), progress)
