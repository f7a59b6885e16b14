"""Documents from bytes, and the hash of their content."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mypt_dist.data.prepare.documents import (
    Digest,
    LeftOutError,
    decoded,
    document_from_bytes,
    document_from_line,
    is_held_out,
)


def left_out(make):
    with pytest.raises(LeftOutError) as caught:
        make()
    return caught.value.kind


def test_text_is_taken_as_it_is_but_for_a_byte_order_mark():
    document = document_from_bytes("\ufeffHeLLo\r\n\ufeff é\0".encode(), "skip")
    assert document.text == "HeLLo\r\n\ufeff é\0"
    assert document.text_bytes == len(document.text.encode())
    assert not document.repaired


@pytest.mark.parametrize("data", [b"", b" \n\t\r\n", "\ufeff".encode(), "\u3000".encode()])
def test_white_space_is_no_document(data):
    assert left_out(lambda: document_from_bytes(data, "skip")) == "empty"


def test_bad_utf8_is_left_out_or_replaced():
    assert left_out(lambda: document_from_bytes(b"caf\xe9", "skip")) == "bad_utf8"
    document = document_from_bytes(b"caf\xe9!", "replace")
    assert (document.text, document.repaired) == ("caf\ufffd!", True)


def test_a_line_gives_the_text_of_its_field():
    line = json.dumps({"id": 1, "body": "Grüße\n"}).encode()
    assert document_from_line(line, "body", "skip").text == "Grüße\n"
    assert document_from_line("\ufeff".encode() + line + b"\r", "body", "skip").text == "Grüße\n"


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b'"text"',
        b"3",
        b"null",
        b'{"body": "x"}',
        b'{"text": 3}',
        b'{"text": null}',
        b"[" * 100_000,
        b'{"text": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_line_without_a_text_is_bad(line):
    assert left_out(lambda: document_from_line(line, "text", "skip")) == "bad_json"


def test_an_empty_text_in_a_line_is_empty():
    assert left_out(lambda: document_from_line(b'{"text": " "}', "text", "skip")) == "empty"


@pytest.mark.parametrize("line", [b'{"text": "caf\xe9"}', b'{"text": "a\\ud800b"}'])
def test_bad_characters_in_a_line_are_left_out_or_replaced(line):
    assert left_out(lambda: document_from_line(line, "text", "skip")) == "bad_utf8"
    document = document_from_line(line, "text", "replace")
    assert document.repaired
    assert "\ufffd" in document.text


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)))))
def test_the_digest_is_of_the_text_and_not_of_its_pieces(pieces):
    whole, parts = Digest(), Digest()
    whole.update("".join(pieces))
    for piece in pieces:
        parts.update(piece)
    assert whole.digest() == parts.digest()
    assert whole.text_bytes == parts.text_bytes == len("".join(pieces).encode())


def test_the_digest_of_a_long_text_is_of_all_of_it():
    first, second = Digest(), Digest()
    first.update("a" * 300_000 + "b")
    second.update("a" * 300_000 + "c")
    assert first.digest() != second.digest()
    assert first.text_bytes == 300_001


def test_the_split_never_changes():
    # Golden: datasets that were prepared before must keep their splits when files are added.
    digests = [document_from_bytes(f"document {i}".encode(), "skip").digest for i in range(2000)]
    assert digests[0].hex() == "efe08752249f79ea1f01d1186827ea5d"
    held_out = [i for i, digest in enumerate(digests) if is_held_out(digest, 0.01)]
    assert held_out == [
        88,
        158,
        213,
        217,
        450,
        493,
        519,
        673,
        755,
        789,
        857,
        963,
        1026,
        1058,
        1184,
        1223,
        1587,
        1840,
        1926,
    ]
    assert 150 < sum(is_held_out(digest, 0.1) for digest in digests) < 250


def test_nothing_is_held_out_for_zero_and_what_is_stays_for_more():
    assert not is_held_out(bytes(16), 0.0)
    assert is_held_out(bytes(16), 1e-9)
    assert not is_held_out(b"\xff" * 16, 0.999)


@given(st.binary(max_size=40), st.lists(st.integers(0, 40)))
def test_bytes_in_pieces_decode_like_the_whole(data, cuts):
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    blocks = [data[begin:end] for begin, end in itertools.pairwise(edges)]
    assert "".join(decoded(blocks, "replace")) == data.decode(errors="replace").removeprefix("\ufeff")
    try:
        expected = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        with pytest.raises(UnicodeDecodeError):
            list(decoded(blocks, "strict"))
    else:
        assert "".join(decoded(blocks, "strict")) == expected


def test_a_byte_order_mark_is_dropped_even_when_it_comes_byte_by_byte():
    data = "\ufeff\ufeffa".encode()
    assert "".join(decoded([data[i : i + 1] for i in range(len(data))], "strict")) == "\ufeffa"
