"""A row of a corpus file becomes a passage: which field is what, and what is wrong with a row that has none."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .passage import BadRow, Passage

ID_FIELDS = ("_id", "id")
TEXT = "text"
CONTENTS = "contents"


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of the fields; "" = the usual: `_id` or `id`; `title`; `text`, else `contents`, whose first line is the title."""

    id: str = ""
    title: str = ""
    text: str = ""


def passage_from(row: Mapping[str, object], fields: Fields) -> Passage:
    """The passage in a row. Fields that are none of id, title and text become its metadata, beside what `metadata` holds itself.

    Raises `BadRow`.
    """
    rest = dict(row)
    id_ = _id(rest, fields)
    title, text = _title_and_text(rest, fields)
    metadata = rest.pop("metadata", None)
    if isinstance(metadata, dict):
        rest = {**metadata, **rest}
    elif metadata is not None:
        rest["metadata"] = metadata
    for name, value in rest.items():
        if not isinstance(name, str):
            raise BadRow(f"the name of a field is {name!r}, which is not text")
        if not _all_finite(value):
            raise BadRow(f"its {name} holds a value that is not finite, which is not a number of JSON")
    return Passage(id_, title, text, rest)


def missing_column(columns: Sequence[str], fields: Fields) -> str:
    """What a table with these columns lacks, as a sentence; "" where every row can have an id and a text."""
    wanted = [(fields.id,) if fields.id else ID_FIELDS, (fields.text,) if fields.text else (TEXT, CONTENTS)]
    if fields.title:
        wanted.append((fields.title,))
    for names in wanted:
        if not set(names) & set(columns):
            return f"it has no column {' or '.join(names)}; its columns are {', '.join(map(repr, columns))}"
    return ""


def passage_from_json(line: str, fields: Fields) -> Passage:
    """The passage in a JSON object on one line. Raises `BadRow`."""
    try:
        row = json.loads(line, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise BadRow(f"it is not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise BadRow("it is nested too deeply") from None
    except ValueError as error:
        raise BadRow(f"it is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise BadRow("it is not a JSON object")
    return passage_from(row, fields)


def split_tsv(line: str) -> list[str]:
    """The fields of a TSV line. One in double quotes loses them, doubled ones inside become single (as DPR writes passages). If
    one inside is not doubled, the quotes are the text's own."""
    return [_unquoted(field) if field[:1] == '"' else field for field in line.split("\t")]


def passage_from_tsv(line: str, header: Sequence[str], fields: Fields) -> Passage:
    """The passage in a TSV line under `header`. Raises `BadRow`."""
    values = split_tsv(line)
    if len(values) != len(header):
        raise BadRow(f"it has {len(values)} fields, the header has {len(header)}")
    return passage_from(dict(zip(header, values, strict=True)), fields)


def _unquoted(field: str) -> str:
    inside = field[1:-1]
    quoted = len(field) > 1 and field[-1] == '"' and '"' not in inside.replace('""', "")
    return inside.replace('""', '"') if quoted else field


def _id(rest: dict[str, object], fields: Fields) -> str:
    names = (fields.id,) if fields.id else ID_FIELDS
    for name in names:
        if name in rest:
            value = rest.pop(name)
            if type(value) is int:
                return str(value)
            if not isinstance(value, str) or not value.strip():
                raise BadRow(f"its {name} is {_told(value)}, which is no id")
            return value
    raise BadRow(f"it has no {' or '.join(names)}")


def _title_and_text(rest: dict[str, object], fields: Fields) -> tuple[str, str]:
    title = _text(rest, fields.title, optional=False) if fields.title else _text(rest, "title", optional=True)
    if fields.text:
        return title, _text(rest, fields.text, optional=False)
    if TEXT in rest or CONTENTS not in rest:
        return title, _text(rest, TEXT, optional=False)
    contents = _text(rest, CONTENTS, optional=False)
    first, newline, others = contents.partition("\n")
    if title or not newline:
        return title, contents
    return first.strip(), others


def _text(rest: dict[str, object], name: str, optional: bool) -> str:
    if name not in rest:
        if optional:
            return ""
        raise BadRow(f"it has no {name}")
    value = rest.pop(name)
    if value is None and optional:
        return ""
    if not isinstance(value, str):
        raise BadRow(f"its {name} is {_told(value)}, which is not text")
    return value


def _all_finite(value: object) -> bool:
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, dict):
            waiting.extend(inner.values())
        elif isinstance(inner, list):
            waiting.extend(inner)
        elif isinstance(inner, float) and not math.isfinite(inner):
            return False
    return True


def _told(value: object) -> str:
    shown = json.dumps(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    return shown if len(shown) <= 40 else f"{shown[:40]}..."


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Of two values of one name nobody knows which is meant; JSON readers take the last."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise BadRow(f"it has several values named {next(name for name in names if names.count(name) > 1)!r}")
    return fields


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a number of JSON")
