"""How many ids does text need? Models of other programs have rows for those, and often for no more."""

from mypt_dist.tokenizers.base import Tokenizer
from mypt_dist.tokenizers.char import CharTokenizer


def text_ids(tokenizer: Tokenizer) -> int:
    """Ids 0 … n - 1 that text of the tokenizer's own corpus encodes to: not for control tokens, nor for unseen text."""
    if isinstance(tokenizer, CharTokenizer):
        return len(tokenizer.characters)
    return tokenizer.vocab_size - len(tokenizer.specials)
