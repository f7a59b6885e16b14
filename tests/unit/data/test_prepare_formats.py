"""Documents in files of lines and in tables."""

import gzip
import json
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prepare_corpus import documents_of

from mypt_dist.data.formats import JsonLines, LineFile, Parquet, TabSeparated, TextFormat
from mypt_dist.data.prepare import PrepareSettings
from mypt_dist.data.prepare.inputs import InputFile, size_of
from mypt_dist.data.prepare.records import LINES_BYTES, records, whole_records
from mypt_dist.data.prepare.staging import publish, staged
from mypt_dist.data.prepare.text import Inputs, Job, PrepareReport
from mypt_dist.errors import ConfigError

THREE, BLANK, PERCENT = LineFile(lines_per_document=3), LineFile(end_line=""), LineFile(end_line="%")
FORMATS = [LineFile(), THREE, BLANK, PERCENT, TabSeparated(column=1, header=True), JsonLines()]


def prepared(path: Path, format_: TextFormat, packing: str = "") -> tuple[list[str], PrepareReport]:
    """The documents of one file."""
    file, out = InputFile(path, 0, size_of(path), packing, format_), path.parent / "out"
    job = Job(Inputs(["it"], lambda: [file]), PrepareSettings(tokenizer="byte", val_fraction=0, workers=2))
    with staged(out, overwrite=True) as staging:
        report = job.run(staging)
        publish(staging, report.manifest)
    return documents_of(out, "train"), report


@given(st.lists(st.sampled_from(["a", "b c", "", " ", "%", "\r", "x\r"]), max_size=30), st.data())
@pytest.mark.parametrize("format_", FORMATS, ids=str)
def test_documents_do_not_depend_on_how_a_file_comes_in_runs(
    format_: TextFormat, lines: list[str], data: st.DataObject
) -> None:
    whole = [f"{line}\n".encode() for line in lines]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)))) | {0, len(whole)})
    runs = [b"".join(whole[a:b]) for a, b in pairwise(cuts)]
    found, number = [], 1
    for run in whole_records(runs, format_):
        assert run is not None
        found += records(run, number, format_)
        number += run.count(b"\n")
    assert found == list(records(b"".join(whole), 1, format_))


@pytest.mark.parametrize(
    ("format_", "text", "documents"),
    [
        (LineFile(), "eins\n\nzwei\r\ndrei", ["eins", "zwei", "drei"]),
        (THREE, "1\n2\n3\n4\n5\n6\n7\n", ["1\n2\n3", "4\n5\n6", "7"]),
        (BLANK, "\na\nb\n\n\nc\r\n\r\nd", ["a\nb", "c", "d"]),
        (PERCENT, "one\n\ntwo\n%\nthree\n%\n% four\n", ["one\n\ntwo", "three", "% four"]),
        (TabSeparated(column=2), "1\teins\tx\n2\tzwei\n", ["eins", "zwei"]),
        (TabSeparated(column=1, header=True), "text\tid\neins\t1\n", ["eins"]),
        (JsonLines(field="a.b"), '{"a": {"b": "deep"}}\n{"a": "flat"}\n', ["deep"]),
    ],
)
def test_what_is_a_document(tmp_path: Path, format_: TextFormat, text: str, documents: list[str]) -> None:
    (tmp_path / "in").write_bytes(text.encode())
    assert prepared(tmp_path / "in", format_)[0] == documents
    (tmp_path / "in.gz").write_bytes(gzip.compress(text.encode()))
    assert prepared(tmp_path / "in.gz", format_, ".gz")[0] == documents


def test_lines_without_the_column_are_counted_with_their_number(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("h1\th2\n1\teins\nzwei\n3\tdrei\n")
    documents, report = prepared(tmp_path / "in", TabSeparated(column=2, header=True))
    assert documents == ["eins", "drei"]
    assert report.manifest.counts.left_out() == {"no_text": 1}
    assert report.examples == {"no_text": [f"{tmp_path}/in:3"]}


def test_a_document_of_many_lines_is_whole(tmp_path: Path) -> None:
    line = "so viele Wörter " * 60
    text = "\n".join([line] * 1200)
    (tmp_path / "in").write_text(f"{text}\n%\nend\n%\n")
    assert prepared(tmp_path / "in", PERCENT)[0] == [text, "end"]


def test_a_document_of_lines_that_does_not_end_is_ended(tmp_path: Path) -> None:
    line = "x" * 999
    (tmp_path / "in").write_text(f"{line}\n" * (2 * LINES_BYTES // 1000))
    documents = prepared(tmp_path / "in", PERCENT)[0]
    assert [len(document) > LINES_BYTES for document in documents] == [True, False]
    assert sum(document.count("\n") + 1 for document in documents) == 2 * LINES_BYTES // 1000


@pytest.mark.parametrize("rows_in_a_group", [7, 10_000])
def test_rows_of_a_table(tmp_path: Path, rows_in_a_group: int) -> None:
    texts = [f"row {i} " * (i % 50) for i in range(1000)]
    texts[3:3] = [None, "wide \U0001f600 " * 60_000]  # type: ignore[list-item]
    pq.write_table(
        pa.table({"id": range(1002), "text": texts}), tmp_path / "in.parquet", row_group_size=rows_in_a_group
    )
    documents, report = prepared(tmp_path / "in.parquet", Parquet())
    assert documents == [text for text in texts if text]
    assert report.manifest.counts.left_out() == {"no_text": 1, "empty": 20}
    assert report.examples["no_text"] == [f"{tmp_path}/in.parquet:4"]


@pytest.mark.parametrize(
    ("values", "column"),
    [
        (pa.array([{"b": "x"}, {"b": "y"}, None]), "a.b"),
        (pa.array(["x", "y", None]).dictionary_encode(), "a"),
        (pa.array([b"x", b"y", b"\xff"]), "a"),
        (pa.array(["x", "y", " "], pa.large_string()), "a"),
    ],
)
def test_columns_of_every_kind_of_text(tmp_path: Path, values: pa.Array, column: str) -> None:
    pq.write_table(pa.table({"a": values, "z": [1, 2, 3]}), tmp_path / "in.parquet")
    documents, report = prepared(tmp_path / "in.parquet", Parquet(column=column))
    assert documents == ["x", "y"]
    assert sum(report.manifest.counts.left_out().values()) == 1


@pytest.mark.parametrize("column", ["texts", "n", "a", "a.c", "a.b.c"])
def test_a_column_that_is_no_text_is_refused_with_those_that_are_there(tmp_path: Path, column: str) -> None:
    pq.write_table(pa.table({"a": [{"b": "x"}], "n": [1]}), tmp_path / "in.parquet")
    message = f"in.parquet has no column '{column}' of text; its columns are 'a', 'n'"
    with pytest.raises(ConfigError, match=message):
        prepared(tmp_path / "in.parquet", Parquet(column=column))
    assert not (tmp_path / "out").exists()


def test_a_damaged_table_is_counted(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x" * 1000] * 100}), tmp_path / "in.parquet", compression="none")
    data = (tmp_path / "in.parquet").read_bytes()
    (tmp_path / "in.parquet").write_bytes(data[:-20])
    with pytest.raises(ConfigError, match="1 unreadable files"):
        prepared(tmp_path / "in.parquet", Parquet())


def test_a_field_path_holds_in_lines_too_large_for_a_thread(tmp_path: Path) -> None:
    text = "word " * 100_000
    (tmp_path / "in").write_text(json.dumps({"a": {"b": text}}) + "\n")
    assert prepared(tmp_path / "in", JsonLines(field="a.b"))[0] == [text]
