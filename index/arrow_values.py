"""The values of an Arrow column as Python has them, but those that count nanoseconds as text: Python's own times end at
microseconds. pandas, which pyarrow asks where it is installed, has no part in it: a corpus is read alike everywhere.
Imports pyarrow."""

from __future__ import annotations

import datetime
from typing import Any

import pyarrow

_NANOSECONDS = "[ns"
"""In the name of each type that counts them, and of each that holds such a one."""


def values_of(column: Any) -> list[object]:
    """Of all rows. A timestamp or time in nanoseconds is its ISO 8601 text, a duration what `str` makes of it, with nine digits
    behind the point where six do not tell all. Raises OverflowError or ValueError where Python has no room for a value."""
    if _NANOSECONDS in str(column.type):
        return [_value(scalar) for scalar in column]
    values: list[object] = column.to_pylist()
    return values


def _value(scalar: Any) -> object:
    if not scalar.is_valid or _NANOSECONDS not in str(scalar.type):
        return scalar.as_py()
    if isinstance(scalar, pyarrow.StructScalar):
        return {name: _value(inner) for name, inner in scalar.items()}
    if isinstance(scalar, pyarrow.MapScalar):
        return [[_value(inner) for inner in pair.values()] for pair in scalar.values]
    if isinstance(scalar, pyarrow.ListScalar):
        return [_value(inner) for inner in scalar.values]
    if isinstance(scalar, (pyarrow.TimestampScalar, pyarrow.DurationScalar, pyarrow.Time64Scalar)):
        return _text(scalar)
    return scalar.as_py()


def _text(scalar: Any) -> str:
    microseconds, rest = divmod(scalar.value, 1_000)
    whole = pyarrow.scalar(microseconds, _in_microseconds(scalar.type)).as_py()
    if isinstance(whole, datetime.timedelta):
        if not rest:
            return str(whole)
        return f"{whole}{'' if whole.microseconds else '.000000'}{rest:03}"
    if not rest:
        return str(whole.isoformat())
    before, point, behind = whole.isoformat(timespec="microseconds").partition(".")
    return f"{before}{point}{behind[:6]}{rest:03}{behind[6:]}"


def _in_microseconds(type_: Any) -> Any:
    if pyarrow.types.is_timestamp(type_):
        return pyarrow.timestamp("us", type_.tz)
    return pyarrow.duration("us") if pyarrow.types.is_duration(type_) else pyarrow.time64("us")
