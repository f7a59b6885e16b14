"""How much may come out of an archive?"""

from dataclasses import dataclass


class RefusedError(Exception):
    """An archive is not what is accepted. The message is the reason alone."""


@dataclass(frozen=True, slots=True)
class ExtractionLimits:
    """What the archives of one source may become."""

    max_bytes: int = 500 * 10**9
    """In all files together."""
    max_ratio: float = 200.0
    """Bytes that come out for one that goes in. Text becomes 3 to 20 times smaller, a bomb a thousand times."""
    ratio_from: int = 64 << 20
    """Bytes that are never too many: small files of one repeated line are compressed very well."""
    max_entries: int = 200_000
    """Files and folders."""


class Budget:
    """Counts down what may still come out. Raises `RefusedError` before more is written."""

    def __init__(self, limits: ExtractionLimits, packed_bytes: int) -> None:
        """``packed_bytes``: what the archives have on the disk."""
        self._limits, self._packed = limits, packed_bytes
        self._entries = self._bytes = 0
        self._by_ratio = max(limits.ratio_from, int(limits.max_ratio * packed_bytes))

    @property
    def max_entries(self) -> int:
        """Files and folders, before the first is taken."""
        return self._limits.max_entries

    def take_entry(self) -> None:
        """One more file or folder, or what an archive says about one."""
        self._entries += 1
        if self._entries > self._limits.max_entries:
            raise RefusedError(f"it holds more than {self._limits.max_entries:,} files and folders (--max-files)")

    def take_bytes(self, count: int) -> None:
        """``count`` more bytes."""
        self._bytes += count
        if self._bytes > self._limits.max_bytes:
            raise RefusedError(f"it unpacks to more than {self._limits.max_bytes:,} bytes (--max-unpacked-gb)")
        if self._bytes > self._by_ratio:
            raise RefusedError(
                f"it unpacks to more than {self._by_ratio:,} bytes from {self._packed:,}: more than "
                f"{self._limits.max_ratio:g} for one is what archives made to fill disks do"
            )
