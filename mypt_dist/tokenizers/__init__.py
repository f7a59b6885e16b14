"""Text to token ids and back, with an explicit map of control tokens. Loads no torch."""

from mypt_dist.tokenizers.base import Tokenizer, fingerprint_of
from mypt_dist.tokenizers.bpe import BpeTokenizer
from mypt_dist.tokenizers.byte import ByteTokenizer
from mypt_dist.tokenizers.char import CharTokenizer
from mypt_dist.tokenizers.gpt2 import Gpt2Tokenizer
from mypt_dist.tokenizers.load import KINDS, build_tokenizer, load_tokenizer, read_tokenizer, with_specials
from mypt_dist.tokenizers.special import END_OF_TEXT, END_OF_TURN, SPECIAL_NAMES
from mypt_dist.tokenizers.stream import StreamDecoder

__all__ = [
    "END_OF_TEXT",
    "END_OF_TURN",
    "KINDS",
    "SPECIAL_NAMES",
    "BpeTokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "Gpt2Tokenizer",
    "StreamDecoder",
    "Tokenizer",
    "build_tokenizer",
    "fingerprint_of",
    "load_tokenizer",
    "read_tokenizer",
    "with_specials",
]
