"""Which byte pairs does a corpus consist of? Learned by Hugging Face's tokenizers, kept as tiktoken's ranks.

The library is loaded only here: encoding needs tiktoken alone. Its result does not depend on its threads, and its own
encoding gives the same ids as ours; tests hold both.
"""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers.base import well_formed
from mypt_dist.tokenizers.bpe import BpeTokenizer
from mypt_dist.tokenizers.byte_level import unspelled
from mypt_dist.tokenizers.special import SPECIAL_NAMES

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)

LEAST = 256 + len(SPECIAL_NAMES)
"""Ids of a tokenizer that has learned nothing."""
MOST = 1 << 20
"""Ids that are accepted. Models have at most a quarter of that."""
MIN_COUNT = 2
"""How often a pair must stand in the text to become a token."""


def learn_bpe(texts: Iterable[str], vocab_size: int) -> BpeTokenizer:
    """The tokenizer of ``vocab_size`` ids, special tokens included, that needs few tokens for ``texts``.

    Sennrich et al. (2016, arXiv:1508.07909), on the bytes of pieces that GPT-2's pattern cuts. Fewer ids come of a text
    that has not so many pairs which stand in it twice. Raises `ConfigError` for an impossible size, or no text.
    """
    if not LEAST <= vocab_size <= MOST:
        raise ConfigError(
            f"a vocabulary of {vocab_size:,} cannot be learned: between {LEAST} (the bytes and {len(SPECIAL_NAMES)} "
            f"special tokens) and {MOST:,}"
        )
    base = vocab_size - len(SPECIAL_NAMES)
    ids = library_bpe(texts, base).get_vocab(with_added_tokens=False)
    pieces = [piece for name in sorted(ids, key=ids.__getitem__) if (piece := unspelled(name)) is not None]
    assert len(pieces) == len(ids), "the library writes bytes in this alphabet"
    if len(pieces) < base:
        log.warning(
            "the text gives no more than %s ids: it has not so many pairs that stand in it twice; give more text",
            f"{len(pieces) + len(SPECIAL_NAMES):,}",
        )
    return BpeTokenizer(pieces)


def library_bpe(texts: Iterable[str], base: int) -> "Tokenizer":
    """The library's own tokenizer of ``base`` ids. Raises `ConfigError` where there is no text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers  # noqa: PLC0415 - of use here alone

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=base,
        min_frequency=MIN_COUNT,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    counted = _Counted(texts)
    learner.train_from_iterator(counted, trainer)
    if not counted.characters:
        raise ConfigError("there is no text to learn from")
    return learner


class _Counted:
    """Texts as the library can take them, and how many characters they had."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = iter(texts)
        self.characters = 0

    def __iter__(self) -> "_Counted":
        return self

    def __next__(self) -> str:
        text = next(self._texts)
        self.characters += len(text)
        return well_formed(text)
