"""Which conversations share a row? Best-fit decreasing: the longest first, each where it leaves the least room."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pack(lengths: NDArray[np.int64], row_length: int) -> list[list[int]]:
    """Rows of numbers of conversations, in the order in which they stand there. Equal lengths keep their order.

    Best-fit decreasing needs at most 11/9 of the fewest rows possible, and one (Johnson, 1973); of many short pieces
    it fills nearly everything. Time is O(n · row_length / 64). ``lengths``: (n,), each of 1 … ``row_length``.
    """
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(row_length + 1)]
    """Rows by the tokens that are free in them."""
    free = 0
    """Bit f is set where some row has f tokens free: the smallest that is enough is one shift away."""
    for number in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[number])
        enough = free >> length
        if enough:
            room = length + (enough & -enough).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                free ^= 1 << room
        else:
            room, row = row_length, len(rows)
            rows.append([])
        rows[row].append(number)
        left = room - length
        if left:
            with_room[left].append(row)
            free |= 1 << left
    return rows


def padding(rows: Sequence[Sequence[int]], lengths: NDArray[np.int64], row_length: int) -> int:
    """Tokens of all rows in which no conversation stands."""
    return len(rows) * row_length - int(lengths.sum())
