"""What text may already be shown while ids still arrive?"""

import codecs
from collections.abc import Iterable

from mypt_dist.tokenizers.base import Tokenizer


class StreamDecoder:
    """Decodes ids as they come and holds back a character until its last byte is there.

    The pieces joined, `finish` included, equal ``tokenizer.decode`` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: Iterable[int]) -> str:
        """The text that became complete with ``ids``. Raises `DataError` for an id outside the vocabulary."""
        return self._utf8.decode(b"".join(self._tokenizer.token_bytes(int(token)) for token in ids))

    def finish(self) -> str:
        """U+FFFD if the last character is incomplete, else nothing. The decoder may then be used anew."""
        return self._utf8.decode(b"", final=True)
