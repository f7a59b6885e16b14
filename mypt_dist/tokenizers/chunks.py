"""Where may a long text be cut without changing its tokens?"""

from collections.abc import Callable, Iterator

CHUNK_CHARACTERS = 1 << 17
"""What is encoded at once."""

SafeCut = Callable[[str], int]
"""`mypt_dist.tokenizers.Tokenizer.safe_cut`."""


class Chunker:
    """Cuts a text that arrives in pieces into chunks of bounded size that encode to the same tokens as the whole.

    Chunks depend on the text alone, not on its pieces. Where `CHUNK_CHARACTERS` hold no place that is known to be
    safe — a "word" of 131,072 letters, say — the cut is made there all the same, to bound time and memory.
    """

    def __init__(self, safe_cut: SafeCut, size: int = CHUNK_CHARACTERS) -> None:
        self._safe_cut = safe_cut
        self._size = size
        self._held = ""

    def feed(self, text: str) -> Iterator[str]:
        """The chunks that are complete with ``text``. To be exhausted before the next call."""
        self._held += text
        begin = 0
        while len(self._held) - begin > self._size:
            window = self._held[begin : begin + self._size]
            cut = self._safe_cut(window) or self._size
            yield window[:cut]
            begin += cut
        self._held = self._held[begin:]

    def rest(self) -> str:
        """The last chunk; empty only if the text is."""
        return self._held


def chunks_of(text: str, safe_cut: SafeCut) -> Iterator[str]:
    """A whole text in the chunks that a `Chunker` makes of it; at least one."""
    chunker = Chunker(safe_cut)
    # Not all at once, because the chunker would hold a copy.
    for begin in range(0, len(text), CHUNK_CHARACTERS):
        yield from chunker.feed(text[begin : begin + CHUNK_CHARACTERS])
    yield chunker.rest()
