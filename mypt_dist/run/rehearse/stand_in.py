"""A small synthetic dataset where the real one is not: letters without meaning, prepared by the real thing."""

import random
from pathlib import Path

from mypt_dist.data.prepare import PrepareSettings, prepare

WORDS = ("lorem", "ipsum", "dolor", "sit", "amet", "consectetur", "adipiscing", "elit", "sed", "do", "eiusmod")
DOCUMENTS = 60


def prepare_stand_in(folder: Path, seed: int) -> Path:
    """Write a dataset of some ten thousand byte tokens into ``folder``, which must not exist, and return it."""
    text = folder.with_name(f"{folder.name}-text")
    text.mkdir(parents=True)
    words = random.Random(seed)
    for number in range(DOCUMENTS):
        document = " ".join(words.choices(WORDS, k=words.randint(20, 120)))
        (text / f"{number:03}.txt").write_text(document, encoding="ascii")
    prepare([str(text)], folder, PrepareSettings(tokenizer="byte", val_fraction=0.1, workers=1))
    return folder
