"""What the header of each kind of record holds, read off the record classes: names of its fields, their types, their bounds.

Headers come from outside: a field that is there has the type that its record says, or the header is refused, field named.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from . import messages
from .errors import ProtocolError
from .messages import ID_BYTES, KINDS, TIMINGS_MAX

IDS_MAX = 8192
"""Ids that one header may list."""

ENDS_MAX = 8
"""Ends that one registration may tell."""

Check = Callable[[Any], Any]
"""A value as it came to one of its field's type; raises `ValueError` with what it wants."""

_ABSENT = object()
_FLOATS = {float}


class Field(NamedTuple):
    """A header field. A value that is exactly a `plain` needs no look at it; any other goes through `check`."""

    name: str
    plain: type | None
    check: Check


@dataclass(frozen=True, slots=True)
class Schema:
    """Of one record class. `required`: fields without a default; `nests`: some field holds records of its own."""

    cls: type[Any]
    fields: tuple[Field, ...]
    names: tuple[str, ...]
    required: tuple[str, ...]
    has_id: bool
    has_body: bool
    nests: bool

    def checked(self, header: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that `header` has; others in it are ignored. Raises `ProtocolError`."""
        values = {}
        for name, plain, check in self.fields:
            value = header.get(name, _ABSENT)
            if type(value) is plain:
                values[name] = value
            elif value is not _ABSENT:
                try:
                    values[name] = check(value)
                except ValueError as error:
                    raise ProtocolError(f"{name} {error}") from None
        return values

    def missing(self, values: Mapping[str, Any]) -> str | None:
        """A required field that is not among `values`."""
        for name in self.required:
            if name not in values:
                return name
        return None


# ---- values --------------------------------------------------------------------------------------------------------


def _refused(kind: type) -> Check:
    def refuse(value: Any) -> Any:
        raise ValueError(f"wants {kind.__name__}, not {type(value).__name__}")

    return refuse


def _finite(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError("wants a finite number")
    return float(value)


def _int(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"wants int, not {type(value).__name__}")
    return value


def _request_id(value: Any) -> bytes:
    if type(value) is not bytes or len(value) != ID_BYTES:
        raise ValueError(f"wants an id of {ID_BYTES} bytes")
    return value


def _timings(value: Any) -> dict[str, float]:
    if type(value) is not dict or len(value) > TIMINGS_MAX:
        raise ValueError(f"wants a map of at most {TIMINGS_MAX} timings")
    for name in value:
        if type(name) is not str:
            raise ValueError(f"wants str, not {type(name).__name__}")
    if set(map(type, value.values())) == _FLOATS and math.isfinite(sum(value.values())):
        return value
    return {name: _finite(ms) for name, ms in value.items()}


def _list_of(check: Check, most: int) -> Check:
    def check_all(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) > most:
            raise ValueError(f"wants a list of at most {most}")
        return tuple(map(check, value))

    return check_all


def _nested(cls: type[Any]) -> Check:
    schema = _schema(cls, _CHECKS)

    def check(value: Any) -> Any:
        if type(value) is not dict:
            raise ValueError(f"wants a map of {cls.__name__}")
        values = schema.checked(value)
        if (name := schema.missing(values)) is not None:
            raise ValueError(f"wants a {name} in each {cls.__name__}")
        return cls(**values)

    return check


# ---- schemas -------------------------------------------------------------------------------------------------------

_PLAIN: dict[str, type] = {"str": str, "int": int, "bool": bool}
_CHECKS: dict[str, Check] = {
    **{name: _refused(kind) for name, kind in _PLAIN.items()},
    "float": _finite,
    "tuple[int, ...]": _list_of(_int, IDS_MAX),
    "tuple[bytes, ...]": _list_of(_request_id, IDS_MAX),
    "Mapping[str, float]": _timings,
}


def _schema(cls: type[Any], checks: Mapping[str, Check]) -> Schema:
    declared = {field.name: field for field in dataclasses.fields(cls)}
    types = {name: str(field.type) for name, field in declared.items() if name not in ("id", "body")}
    no_default = [name for name, field in declared.items() if field.default is field.default_factory is dataclasses.MISSING]
    return Schema(
        cls,
        tuple(Field(name, _PLAIN.get(kind), checks[kind]) for name, kind in types.items()),
        tuple(types),
        tuple(name for name in no_default if name != "id"),
        "id" in declared,
        "body" in declared,
        any(kind not in _CHECKS for kind in types.values()),
    )


_NESTED: dict[str, Check] = {
    "Limits": _nested(messages.Limits),
    "Rollout": _nested(messages.Rollout),
    "tuple[SlotBrief, ...]": _list_of(_nested(messages.SlotBrief), IDS_MAX),
    "tuple[Gone, ...]": _list_of(_nested(messages.Gone), ENDS_MAX),
}

SCHEMAS: Mapping[type[Any], Schema] = {cls: _schema(cls, {**_CHECKS, **_NESTED}) for cls in KINDS.values()}
