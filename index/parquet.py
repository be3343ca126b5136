"""The rows of a Parquet file as plain values, batch by batch."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Union

from .errors import ConfigurationError, CorpusError
from .passage import BadRow
from .rows import Fields, missing_column

_BATCH_ROWS = 1024


def read_parquet(path: Path, fields: Fields) -> Iterator[Union[dict[str, object], BadRow]]:
    """Each row as a map, or why it is none. Times become ISO 8601 text, decimals text, bytes UTF-8 or else hexadecimal text.
    Raises `CorpusError` where the file cannot be read on, has no column for what `fields` name, or two of one name."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigurationError("reading .parquet files needs the package pyarrow: pip install 'ragpool[parquet]'") from None
    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if problem := _named_twice(names) or missing_column(names, fields):
                raise CorpusError(str(path), 0, problem)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for found in _rows_of(batch):
                    row += 1
                    yield found
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise CorpusError(str(path), row + 1, f"cannot be read as Parquet ({_reason(error)})", "row") from None


def _named_twice(names: Sequence[str]) -> str:
    twice = [name for name, times in Counter(names).items() if times > 1]
    return f"it has several columns named {', '.join(map(repr, twice))}" if twice else ""


def _rows_of(batch: Any) -> Iterator[Union[dict[str, object], BadRow]]:
    """The rows of a record batch: all at once, and one by one where that fails for one of them."""
    from .arrow_values import values_of

    names = batch.schema.names
    try:
        columns = [values_of(column) for column in batch.columns]
    except (OverflowError, ValueError):
        for place in range(batch.num_rows):
            yield _row_of(batch.slice(place, 1))
    else:
        for values in zip(*columns, strict=True):
            yield {name: _plain(value) for name, value in zip(names, values, strict=True)}


def _row_of(one: Any) -> Union[dict[str, object], BadRow]:
    """The only row of a record batch. Values that Python has no room for (dates beyond the year 9999) make it a bad one."""
    from .arrow_values import values_of

    values: dict[str, object] = {}
    for name, column in zip(one.schema.names, one.columns, strict=True):
        try:
            values[name] = _plain(values_of(column)[0])
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
