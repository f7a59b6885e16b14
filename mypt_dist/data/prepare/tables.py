"""The rows of a Parquet file, a few at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mypt_dist.data.prepare.streams import UnreadableError
from mypt_dist.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow.parquet

MAX_ROWS = 4096
_BUFFER_BYTES = 1 << 17


def row_groups_of_text(path: Path, column: str, about_bytes: int) -> Iterator[tuple[list[bytes | None], float]]:
    """The values of ``column`` in order, some ``about_bytes`` at a time, each with the share of all rows it is.

    ``column``: a path such as ``article.body`` leads into structures, unless a column is called so. Raises
    `ConfigError` where there is no such column of text, and `UnreadableError`.
    """
    import pyarrow as pa  # noqa: PLC0415 - slow to load, and seldom needed
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        # Neither mapped nor read ahead: a column of a row group may be larger than the memory.
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            _check_column(file, path, column)
            rows = max(1, file.metadata.num_rows)
            at_once = max(1, min(MAX_ROWS, about_bytes * rows // max(1, _column_bytes(file, column))))
            for batch in file.iter_batches(at_once, columns=[column], use_threads=False):
                yield _bytes_of(batch, column), batch.num_rows / rows
    except (pa.ArrowException, OSError) as error:
        raise UnreadableError(f"it is no Parquet file, or damaged: {str(error).splitlines()[0][:200]}") from None


def _check_column(file: "pyarrow.parquet.ParquetFile", path: Path, column: str) -> None:
    import pyarrow as pa  # noqa: PLC0415

    fields: Any = file.schema_arrow
    kind: pa.DataType | None = None
    for name in [column] if column in file.schema_arrow.names else column.split("."):
        if fields is None or fields.get_field_index(name) < 0:
            kind = None
            break
        kind = fields.field(name).type
        fields = kind if pa.types.is_struct(kind) else None
    if kind is not None and pa.types.is_dictionary(kind):
        kind = kind.value_type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    if kind is None or not any(is_text(kind) for is_text in texts):
        known = ", ".join(map(repr, file.schema_arrow.names))
        raise ConfigError(f"{path} has no column {column!r} of text; its columns are {known} (format.column)")


def _column_bytes(file: "pyarrow.parquet.ParquetFile", column: str) -> int:
    metadata = file.metadata
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    return sum(each.total_uncompressed_size for each in columns if each.path_in_schema == column)


def _bytes_of(batch: "pyarrow.RecordBatch", column: str) -> list[bytes | None]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    values = batch.column(0)
    for name in [] if batch.schema.names[0] == column else column.split(".")[1:]:
        values = pc.struct_field(values, name)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    found: list[bytes | None] = values.cast(pa.large_binary()).to_pylist()
    return found
