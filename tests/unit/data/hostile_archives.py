"""Archives as an attacker, a broken program or a bad line makes them, each with what is said about it."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard

from mypt_dist.data.archives import Archive, ExtractionLimits, kind_of

TINY = ExtractionLimits(max_bytes=1 << 20, max_ratio=20, ratio_from=1 << 16, max_entries=50)
"""So that a bomb can be small."""
INNOCENT = ("a/innocent.txt", b"nothing to see here\n")


@dataclass(frozen=True)
class Hostile:
    """An archive, and a part of what is said when it is refused; None where it is harmless as it is."""

    files: dict[str, bytes]
    said: str | None
    limits: ExtractionLimits = TINY
    combined: str = ""

    def archive(self, folder: Path) -> Archive:
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        name = self.combined or next(iter(self.files))
        return Archive(tuple(folder / file for file in self.files), kind_of(name), name)


def member(name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, **header: object) -> bytes:
    """One member of a tar archive: header, content, padding."""
    info = tarfile.TarInfo(name)
    info.size, info.type = len(content), kind
    for key, value in header.items():
        setattr(info, key, value)
    padding = bytes(-len(content) % 512)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + content + padding


def pax(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return member("pax", records, kind)


def record(key: str, value: bytes) -> bytes:
    rest = b" " + key.encode() + b"=" + value + b"\n"
    size = len(rest) + 1
    while len(str(size)) + len(rest) != size:
        size = len(str(size)) + len(rest)
    return str(size).encode() + rest


def tar(*members: bytes) -> bytes:
    return member(*INNOCENT) + b"".join(members) + bytes(1024)


def tarred(said: str | None, *members: bytes, limits: ExtractionLimits = TINY) -> Hostile:
    return Hostile({"bad.tar": tar(*members)}, said, limits)


def zipped(members: Sequence[tuple[str | zipfile.ZipInfo, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return data.getvalue()


def zip_of(name: str, content: bytes = b"x" * 100, said: str | None = None, attributes: int = 0) -> Hostile:
    info = zipfile.ZipInfo(name)
    info.filename = name  # ZipInfo cleans what it is given.
    info.external_attr = attributes << 16
    return Hostile({"bad.zip": zipped([INNOCENT, (info, content)])}, said)


def patched(data: bytes, signature: bytes, offset: int, value: bytes, which: int = -1) -> bytes:
    """``data`` with ``value`` at ``offset`` from one of the places where ``signature`` is."""
    places = [i for i in range(len(data)) if data.startswith(signature, i)]
    at = places[which] + offset
    return data[:at] + value + data[at + len(value) :]


CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"


def central(offset: int, value: bytes, said: str | None) -> Hostile:
    """The index says something else about the last member."""
    good = zipped([INNOCENT, ("b.txt", b"b" * 1000)])
    return Hostile({"bad.zip": patched(good, CENTRAL, offset, value)}, said)


def renamed(spelled: bytes, becomes: bytes, said: str, flag: bytes = b"\x00\x00") -> Hostile:
    """A name that no library writes, in the index and before the content."""
    good = zipped([INNOCENT, (spelled.decode(), b"b" * 100)]).replace(spelled, becomes)
    return Hostile({"bad.zip": patched(patched(good, CENTRAL, 8, flag), LOCAL, 6, flag)}, said)


def overlapping() -> bytes:
    """Two names for the same compressed bytes, as in bombs that no ratio of one member gives away."""
    good = zipped([("b.txt", b"b" * 1000), ("c.txt", b"b" * 1000)])
    return patched(good, CENTRAL, 42, struct.pack("<L", 0))


def same_name_overlap() -> bytes:
    """The second member lies inside the first, whose content is a header of that name."""
    inner = zipped([("c.txt", b"c" * 50)], zipfile.ZIP_STORED)
    inner = inner[: inner.index(CENTRAL)]
    good = zipped([("b.txt", inner), ("c.txt", b"c" * 50)], zipfile.ZIP_STORED)
    return patched(good, CENTRAL, 42, struct.pack("<L", 30 + len("b.txt")))


def quine() -> bytes:
    """An archive that holds archives of itself, to whoever opens those too."""
    data = zipped([("leaf.txt", b"leaf")])
    for _ in range(5):
        data = zipped([("again.zip", data), ("more.zip", data)])
    return data


def remarks() -> bytes:
    """An index that is mostly comments."""
    infos = [zipfile.ZipInfo(name) for name in "abc"]
    for info in infos:
        info.comment = b"#" * 60_000
    return zipped([(info, b"x") for info in infos])


def split(data: bytes, at: int) -> list[bytes]:
    return [data[:at], data[at : 2 * at], data[2 * at :]]


def split_zip(order: Sequence[int], said: str | None) -> Hostile:
    parts = split(zipped([(f"{i}.txt", bytes([65 + i]) * 100) for i in range(9)], zipfile.ZIP_STORED), 600)
    return Hostile({f"bad.zip.{i}": parts[i] for i in order}, said, combined="bad.zip")


def spanned(parts: int = 2, volumes: tuple[int, int] = (0, 1)) -> dict[str, bytes]:
    """As ``zip -s`` writes: offsets count from the start of a part. In ``parts`` parts, or so it says."""
    good = zipped([("a.txt", b"a" * 500), ("b.txt", b"b" * 500)], zipfile.ZIP_STORED)
    cut = good.index(LOCAL, 10)
    index = good.index(CENTRAL)
    for which, volume in enumerate(volumes):
        good = patched(good, CENTRAL, 34, struct.pack("<H", volume), which)
    good = patched(good, CENTRAL, 42, struct.pack("<L", 0), 1)
    good = patched(good, END, 4, struct.pack("<HH", parts - 1, parts - 1))
    good = patched(good, END, 16, struct.pack("<L", index - cut))
    return {"good.z01": good[:cut], "good.zip": good[cut:]}


def sparse_tar() -> bytes:
    """An old GNU header of a file with holes: a few bytes that stand for a terabyte."""
    info = tarfile.TarInfo("holes.bin")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    return info.tobuf(tarfile.GNU_FORMAT)


def cve_2025_4517() -> tuple[bytes, ...]:
    """Links so long that resolving them fails, through which a later file leaves the folder."""
    part, path, members = "d" * 247, "", []
    for letter in "abcdefghijklmnop":
        members.append(member(path + part, b"", tarfile.DIRTYPE))
        members.append(member(path + letter, b"", tarfile.SYMTYPE, linkname=part))
        path += f"{part}/"
    members.append(member("escape", b"", tarfile.SYMTYPE, linkname="/".join("abcdefghijklmnop") + "/../.." * 8))
    return (*members, member("escape/canary", b"gone"))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


GREAT = b"\0" * (8 << 20)
MODES: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}
NOISE = b"".join(zlib.crc32(i.to_bytes(2, "big")).to_bytes(4, "big") for i in range(3000))

HOSTILE: dict[str, Hostile] = {
    # Ways out of the folder.
    "tar, parent": tarred("leads out", member("../canary")),
    "tar, parent further in": tarred("leads out", member("a/b/../../../canary")),
    "tar, absolute": tarred("absolute path", member("/tmp/canary")),
    "tar, two slashes": tarred("absolute path", member("//tmp/canary")),
    "tar, backslashes": tarred("means something else", member("..\\canary")),
    "tar, drive": tarred("means something else", member("C:/canary")),
    "tar, folder of the parent": tarred("leads out", member("..", b"", tarfile.DIRTYPE)),
    "tar, file in place of the root": tarred("name of the folder", member("./")),
    "zip, parent": zip_of("../canary", said="leads out"),
    "zip, absolute": zip_of("/tmp/canary", said="absolute path"),
    "zip, backslashes": renamed(b"xx/canary", b"..\\canary", "means something else"),
    # Links and devices.
    "tar, symbolic link": tarred("a symbolic link", member("l", b"", tarfile.SYMTYPE, linkname="/etc")),
    "tar, file through a link": tarred(
        "a symbolic link", member("l", b"", tarfile.SYMTYPE, linkname=".."), member("l/canary")
    ),
    "tar, hard link": tarred("a hard link", member("h", b"", tarfile.LNKTYPE, linkname="/etc/passwd")),
    "tar, long target of a link": tarred(
        "a symbolic link", member("@", b"../" * 50, tarfile.GNUTYPE_LONGLINK), member("l", b"", tarfile.SYMTYPE)
    ),
    "tar, character device": tarred("a device", member("null", b"", tarfile.CHRTYPE, devmajor=1, devminor=3)),
    "tar, block device": tarred("a device", member("sda", b"", tarfile.BLKTYPE, devmajor=8)),
    "tar, pipe": tarred("a pipe", member("p", b"", tarfile.FIFOTYPE)),
    "tar, unknown kind": tarred("unknown kind", member("v", b"", b"V")),
    "tar, CVE-2025-4517": tarred("a symbolic link", *cve_2025_4517()),
    "zip, symbolic link": zip_of("link", b"/etc/passwd", "a symbolic link", 0o120777),
    "zip, device": zip_of("null", b"", "a device or a pipe", 0o020666),
    "zip, folder that is a file": zip_of("a/x", b"", "to be a folder and to be a file", 0o040755),
    # Names.
    "tar, control character": tarred("control character", member("a\nb")),
    "tar, escape sequence": tarred("control character", member("a\x1b[2Jb")),
    "tar, letters from right to left": tarred("control character", member("cod\u202etxt.exe")),
    "tar, not UTF-8": tarred("not UTF-8", member("gr\udcfcn")),
    "tar, long part": tarred("longer than 255 bytes", member("n" * 256)),
    "tar, long path": tarred("at most 1,024", member("/".join(["n" * 200] * 6))),
    "tar, deep": tarred("17 folders deep", member("/".join("d" * 17))),
    "tar, device of Windows": tarred("is reserved", member("a/CON")),
    "tar, device of Windows with a suffix": tarred("is reserved", member("aux.txt/x")),
    "tar, dot at the end": tarred("is reserved", member("readme. ")),
    "tar, stream of Windows": tarred("means something else", member("a.txt:evil")),
    "tar, empty part": tarred("without a name", member("a//b")),
    "tar, NUL in the long name": tarred("control character", pax(record("path", b"ok\0/../canary")), member("x")),
    "zip, NUL": renamed(b"b.txtZexe", b"b.txt\0exe", "control character"),
    "zip, NUL first": renamed(b"ZZcanary", b"\0/canary", "control character"),
    "zip, not UTF-8": renamed(b"gr\x31n.txt", b"gr\xfcn.txt", "no index that can be read", b"\x00\x08"),
    "zip, no name": Hostile({"bad.zip": zipped([("./", b"x")])}, "is said to have content"),
    # Twice.
    "tar, twice": tarred("in it twice", member("a/innocent.txt")),
    "tar, twice but for case": tarred("case does not count", member("a/INNOCENT.txt")),
    "tar, folders but for case": tarred("case does not count", member("A/other.txt")),
    "tar, twice in other Unicode": tarred("in it twice", member("u\u0308.txt"), member("\u00fc.txt")),
    "tar, sharp s": tarred("case does not count", member("stra\u00dfe"), member("STRASSE")),
    "tar, file and folder": tarred("both a file and a folder", member("b"), member("b/c")),
    "tar, folder and file": tarred("both a file and a folder", member("b/c"), member("b")),
    "zip, twice": zip_of(INNOCENT[0].replace("innocent", "Innocent"), said="case does not count"),
    # Bombs.
    **{f"{kind}, bomb": Hostile({f"bad.{kind}": pack(GREAT)}, "unpacks to more than") for kind, pack in MODES.items()},
    **{
        f"tar.{kind}, bomb": Hostile({f"bad.tar.{kind}": pack(tar(member("b", GREAT)))}, "unpacks to more than")
        for kind, pack in MODES.items()
    },
    "zip, bomb": Hostile({"bad.zip": zipped([INNOCENT, ("b", GREAT)])}, "unpacks to more than"),
    "zip, bomb of many": Hostile({"bad.zip": zipped([(f"{i}", b"\0" * 60_000) for i in range(40)])}, "from"),
    "tar, more than is allowed": tarred("more than 1,048,576 bytes", member("b", b"x" * (1 << 20))),
    "tar, too many files": tarred("more than 50 files", *(member(f"{i}") for i in range(60))),
    "tar, too many folders": tarred("more than 50 files", *(member(f"{i}/a/b/c/d/e/f/g/x") for i in range(9))),
    "tar, too many headers": tarred("more than 200 headers", *[pax(record("comment", b"x"))] * 300, member("x")),
    "tar.gz, zeros without end": Hostile({"bad.tar.gz": gzip.compress(tar() + bytes(5 << 20))}, "more behind its end"),
    "zip, too many files": Hostile({"bad.zip": zipped([(f"{i}", b"") for i in range(60)])}, "more than 50 files"),
    "zip, quine": Hostile({"fine.zip": quine()}, None),
    "gz, within itself": Hostile({"fine.txt.gz.gz": gzip.compress(gzip.compress(GREAT))}, None),
    # Lies about sizes and places.
    "zip, more than it says": central(24, struct.pack("<L", 10), "more bytes than the 10"),
    "zip, fewer than it says": central(24, struct.pack("<L", 5000), "fewer bytes than the 5,000"),
    "zip, compressed size beyond the end": central(20, struct.pack("<L", 1 << 30), "share bytes"),
    "zip, compressed size too small": central(20, struct.pack("<L", 3), "does not end where"),
    "zip, offset elsewhere": central(42, struct.pack("<L", 7), "not where the index says"),
    "zip, offset beyond the end": central(42, struct.pack("<L", 1 << 31), "not where the index says"),
    "zip, zip64 sizes without an extra": central(24, b"\xff" * 4, "fewer bytes than the 4,294,967,295"),
    "zip, another checksum": central(16, b"abcd", "its checksum is another"),
    "zip, another name inside": Hostile(
        {"bad.zip": zipped([INNOCENT, ("b.txt", b"b")]).replace(b"b.txt", b"../cx", 1)}, "another name"
    ),
    "zip, overlapping": Hostile({"bad.zip": overlapping()}, "another name"),
    "zip, one within another": Hostile({"bad.zip": same_name_overlap()}, "share bytes"),
    "zip, folder with content": Hostile({"bad.zip": zipped([INNOCENT, ("b/", b"x")])}, "is said to have content"),
    "zip, index full of remarks": Hostile({"bad.zip": remarks()}, "too many to be read at once"),
    "zip, index of a gigabyte": Hostile(
        {"bad.zip": patched(zipped([INNOCENT]), END, 12, struct.pack("<L", 1 << 30))}, "no index that can be read"
    ),
    "zip, encrypted": central(8, b"\x01\x00", "is encrypted"),
    "zip, unknown method": central(10, struct.pack("<H", 98), "method 98"),
    "zip, newer than all": central(6, struct.pack("<H", 999), "no index that can be read"),
    "tar, sparse": tarred("a sparse file", sparse_tar()),
    "tar, sparse by its header": tarred("a sparse file", pax(record("GNU.sparse.size", b"1099511627776")), member("s")),
    "tar, size of a file too large": Hostile(
        {"bad.tar": tar()[:-1024] + member("x", size=1 << 40)}, "in the middle of"
    ),
    "tar, negative size": tarred("is said to be -5", pax(record("path", b"x")), member("x", b"", size=-5)),
    "tar, size in words": tarred("is said to be 'many'", pax(record("size", b"many")), member("x")),
    "tar, size that hides a member": tarred(
        "damaged", pax(record("size", b"100")), member("x", b"y" * 700), member("z")
    ),
    "tar, folder with content": tarred("said to have content", member("d", b"x" * 10, tarfile.DIRTYPE)),
    # Extended headers.
    "tar, parent in a long name": tarred("leads out", pax(record("path", b"../canary")), member("x")),
    "tar, parent in a GNU long name": tarred("leads out", member("@", b"../canary\0", b"L"), member("x")),
    "tar, long name of a gigabyte": tarred("an extended header is said", member("@", b"x", b"L", size=1 << 30)),
    "tar, one path for all": tarred("for all members", pax(record("path", b"x"), tarfile.XGLTYPE), member("y")),
    "tar, record of another length": tarred("cannot be read", pax(b"99 path=x\n"), member("x")),
    "tar, record without a length": tarred("cannot be read", pax(b"path=x\n"), member("x")),
    "tar, record of no length": tarred("cannot be read", pax(b"0 path=x\n"), member("x")),
    # Damage.
    "tar, flipped bit in a header": Hostile({"bad.tar": flipped(tar(member("x")), 1030)}, "damaged"),
    "tar, cut": Hostile({"bad.tar": tar(member("x", NOISE))[:5000]}, "in the middle of 'x'"),
    "tar, cut between members": Hostile({"bad.tar": tar()[:-1024]}, "before its end is marked"),
    "tar, garbage behind": Hostile({"bad.tar": tar() + b"more"}, "more behind its end"),
    "tar, another tar behind": Hostile({"bad.tar": tar() + tar()}, "more behind its end"),
    "tar, no tar": Hostile({"bad.tar": NOISE}, "damaged"),
    "tar, empty": Hostile({"bad.tar": b""}, "before its end is marked"),
    "zip, cut": Hostile({"bad.zip": zipped([INNOCENT, ("x", NOISE)])[:-30]}, "no index that can be read"),
    "zip, garbage behind": Hostile({"bad.zip": zipped([INNOCENT]) + b"more"}, "more behind its end"),
    "zip, no zip": Hostile({"bad.zip": NOISE}, "no index that can be read"),
    "zip, flipped bit": Hostile({"bad.zip": flipped(zipped([("x", NOISE)]), 5000)}, "damaged"),
    **{
        f"{kind}, cut": Hostile({f"bad.{kind}": pack(NOISE)[:-5]}, "cannot be unpacked") for kind, pack in MODES.items()
    },
    **{
        f"{kind}, garbage behind": Hostile({f"bad.{kind}": pack(NOISE) + b"garbage"}, "cannot be unpacked")
        for kind, pack in MODES.items()
    },
    "tar.gz, cut": Hostile({"bad.tar.gz": gzip.compress(tar(member("x", NOISE)))[:-5]}, "cannot be unpacked"),
    # In parts.
    "split zip, all": split_zip([0, 1, 2], None),
    "split zip, first missing": split_zip([1, 2], "parts were missing"),
    "split zip, middle missing": split_zip([0, 2], "parts were missing"),
    "split zip, last missing": split_zip([0, 1], "parts were missing"),
    "split zip, swapped": split_zip([1, 0, 2], "wrong order"),
    "spanned zip": Hostile(spanned(), None, combined="good.zip"),
    "spanned zip, part missing": Hostile(spanned(parts=3), "3 parts", combined="good.zip"),
    "spanned zip, part that is not there": Hostile(spanned(volumes=(0, 7)), "parts were missing", combined="good.zip"),
}
