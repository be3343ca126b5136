"""The rows of a Parquet file as plain values, batch by batch."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union

from .errors import ConfigurationError, CorpusError
from .passage import BadRow
from .rows import Fields, missing_column

_BATCH_ROWS = 1024


def read_parquet(path: Path, fields: Fields) -> Iterator[Union[dict[str, object], BadRow]]:
    """Each row as a map, or why it is none. Times become ISO 8601 text, decimals text, bytes UTF-8 or else hexadecimal text.
    Raises `CorpusError` where the file cannot be read on, or has no column for what `fields` name."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigurationError("reading .parquet files needs the package pyarrow: pip install 'ragpool[parquet]'") from None
    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if problem := missing_column(file.schema_arrow.names, fields):
                raise CorpusError(str(path), 0, problem)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for found in _rows_of(batch):
                    row += 1
                    yield found
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise CorpusError(str(path), row + 1, f"cannot be read as Parquet ({_reason(error)})", "row") from None


def _rows_of(batch: Any) -> Iterator[Union[dict[str, object], BadRow]]:
    """The rows of a record batch: all at once, and one by one where that fails for one of them."""
    try:
        rows = batch.to_pylist()
    except (OverflowError, ValueError):
        for place in range(batch.num_rows):
            yield _row_of(batch.slice(place, 1))
    else:
        for values in rows:
            yield {name: _plain(value) for name, value in values.items()}


def _row_of(one: Any) -> Union[dict[str, object], BadRow]:
    """The only row of a record batch. Values that Python has no room for (dates beyond the year 9999) make it a bad one."""
    values: dict[str, object] = {}
    for name, column in zip(one.schema.names, one.columns, strict=True):
        try:
            values[name] = _plain(column[0].as_py())
        except (OverflowError, ValueError) as error:
            return BadRow(f"its {name} cannot be read: {_reason(error)}")
    return values


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, uuid.UUID, datetime.timedelta)):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.hex()
    return value
