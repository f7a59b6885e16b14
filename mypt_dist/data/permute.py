"""A keyed shuffle that is a formula: where does position *i* of a shuffled range come from?

`permute` is a bijection on [0, N) that needs no table: a balanced Feistel network (Luby & Rackoff, 1988) over the next
even power of two, walked along its cycle until it lands inside the range again (Black & Rogaway, 2002). Its round
function is the finaliser of SplitMix64 (Steele, Lea & Flood, 2014). Memory is O(batch), a seek is O(1).
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

U64 = np.uint64
UIntArray = NDArray[np.uint64]

ROUNDS = 8
"""Four make a pseudo-random permutation of a large range; small ranges need more to look uniform."""

_GOLDEN = 0x9E3779B97F4A7C15


def mix(values: UIntArray) -> UIntArray:
    """SplitMix64's finaliser, element by element: a bijection of 64-bit words in which every bit affects every bit."""
    z = values + U64(_GOLDEN)
    z = (z ^ (z >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> U64(27))) * U64(0x94D049BB133111EB)
    mixed: UIntArray = z ^ (z >> U64(31))
    return mixed


def derive_key(*parts: int | str | UIntArray) -> UIntArray:
    """One 64-bit key from whole numbers, names and arrays of them (which broadcast); shape () or that of the arrays."""
    key: UIntArray = np.zeros(1, dtype=U64)
    for part in parts:
        if isinstance(part, str):
            word: UIntArray = np.frombuffer(hashlib.sha256(part.encode()).digest()[:8], dtype="<u8").astype(U64)
        elif isinstance(part, int):
            word = np.array([part % 2**64], dtype=U64)
        else:
            word = part
        key = mix(key ^ mix(word))
    return key


def permute(index: NDArray[np.int64], length: int | NDArray[np.int64], key: UIntArray) -> NDArray[np.int64]:
    """``index`` (n,) within [0, ``length``) to its place in the order that ``key`` (broadcastable to n) gives.

    ``length`` may be an array of its own, if every element has the same bit length.
    """
    lengths = np.broadcast_to(np.asarray(length, dtype=U64), index.shape)
    half = U64(max(1, (int(lengths.max(initial=2) - 1).bit_length() + 1) // 2))
    # One key for all is mixed once, not once an element.
    rounds = [mix(key ^ U64(number)) for number in range(ROUNDS)]
    result = index.astype(U64)
    walking = np.arange(len(index))
    while len(walking):
        moved = _feistel(result[walking], half, [keys[walking] if len(keys) > 1 else keys for keys in rounds])
        result[walking] = moved
        walking = walking[moved >= lengths[walking]]
    return result.astype(np.int64)


def _feistel(values: UIntArray, half: U64, round_keys: list[UIntArray]) -> UIntArray:
    mask = (U64(1) << half) - U64(1)
    left, right = values >> half, values & mask
    for keys in round_keys:
        left, right = right, left ^ (mix(right ^ keys) & mask)
    joined: UIntArray = (left << half) | right
    return joined
