"""The rows of a Parquet file as plain values, batch by batch."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Iterator
from pathlib import Path

from .errors import ConfigurationError, CorpusError
from .rows import Fields, missing_column

_BATCH_ROWS = 1024


def read_parquet(path: Path, fields: Fields) -> Iterator[dict[str, object]]:
    """Each row as a map. Times become ISO 8601 text, decimals text, bytes UTF-8 or else
    hexadecimal text. Raises `CorpusError` where the file cannot be read on, or has no column for what `fields` name."""
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
                for values in batch.to_pylist():
                    row += 1
                    yield {name: _plain(value) for name, value in values.items()}
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CorpusError(str(path), row + 1, f"cannot be read as Parquet ({reason})", "row") from None


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
