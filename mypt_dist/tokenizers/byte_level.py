"""How do byte pairs look in a ``tokenizer.json``? Bytes as printable characters, and merges in place of ranks."""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise

PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
"""Bytes that stand for themselves; all others stand for characters from U+0100 on (GPT-2: Radford et al., 2019)."""


@cache
def alphabet() -> tuple[str, ...]:
    """The character that stands for each byte."""
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in PRINTABLE else next(others)) for byte in range(256))


def spelled(piece: bytes) -> str:
    """A token's bytes in the alphabet."""
    characters = alphabet()
    return "".join(characters[byte] for byte in piece)


def unspelled(text: str) -> bytes | None:
    """The bytes that a text in the alphabet stands for; None where it is in none."""
    bytes_of = _bytes_of()
    try:
        return bytes(bytes_of[character] for character in text)
    except KeyError:
        return None


def merges_of(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pair that each token was made of, in the order of ranks. Single bytes were not made.

    A token's own merge is what merging by the ranks below its own leaves of it: two parts.
    Raises ValueError for ranks that no byte-pair encoding made.
    """
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    return [_pair_of(piece, rank, ranks) for piece, rank in ordered if len(piece) > 1]


def _pair_of(piece: bytes, rank: int, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    splits = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
    possible = [(a, b) for a, b in splits if ranks.get(a, rank) < rank and ranks.get(b, rank) < rank]
    # Merging by rank takes long, and mostly there is no choice.
    parts = possible[0] if len(possible) == 1 else _merged(piece, ranks, below=rank)
    if len(parts) != 2:
        raise ValueError(f"token {rank} is not made of two earlier ones: {parts}")
    return parts[0], parts[1]


def _merged(piece: bytes, ranks: Mapping[bytes, int], below: int) -> Sequence[bytes]:
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 1:
        found = [ranks.get(left + right, below) for left, right in pairwise(parts)]
        best = min(found)
        if best >= below:
            break
        at = found.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


@cache
def _bytes_of() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(alphabet())}
