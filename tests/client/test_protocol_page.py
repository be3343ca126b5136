"""docs/protocol.md says what the records say, and a client that was written from it alone works."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from broker_doubles import BusyBroker, DroppingBroker, EchoBroker, ForgetfulBroker, MuteBroker, RefusingBroker
from ragpool.wire import codec, messages
from ragpool.wire.errors import ERRORS
from ragpool.wire.messages import Failure, Hello, Register, Request

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
WORDS = {"tuple": "list", "Mapping": "map", "Limits": "map"}
HEADINGS: list[tuple[type[Any], str]] = [
    (Hello, "### HELLO"),
    (messages.Welcome, "### WELCOME"),
    (messages.Ping, "| field of PING"),
    (messages.Pong, "| field of PONG"),
    (Request, "### REQUEST"),
    (messages.Reply, "### REPLY"),
    (Failure, "### ERROR"),
    (messages.Limits, "## 6. Limits"),
    (Register, "### REGISTER"),
    (messages.Heartbeat, "### HEARTBEAT"),
    (messages.Drain, "### DRAIN"),
]


def plain_client() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plain_client", Path(__file__).with_name("plain_client.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table_below(heading: str) -> list[tuple[str, str, str]]:
    """(name, type, default) of each row of the first table that names fields."""
    rows = []
    for line in PAGE[PAGE.index("\n" + heading) + 1 :].splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            rows.append((cells[0], cells[1], cells[2]))
        elif rows:
            break
    return rows


@pytest.mark.parametrize(("record", "heading"), HEADINGS, ids=[heading for _, heading in HEADINGS])
def test_the_tables_are_the_records(record: type[Any], heading: str) -> None:
    fields = [field for field in dataclasses.fields(record) if field.name not in ("id", "body")]
    rows = table_below(heading)
    assert [name for name, _, _ in rows] == [field.name for field in fields]
    for (name, kind, default), field in zip(rows, fields, strict=True):
        word = re.split(r"[\[,]", str(field.type))[0]
        assert kind == WORDS.get(word, word), name
        if field.default_factory is not dataclasses.MISSING:
            assert default == "{}", name
        elif field.default is dataclasses.MISSING:
            assert default == "", name
        elif name != "limits":
            value = ast.literal_eval(default)
            assert (tuple(value) if isinstance(value, list) else value) == field.default, name


def test_every_kind_and_every_code_is_named() -> None:
    for kind in messages.KINDS:
        assert re.search(rf"\b{kind.decode()}\b", PAGE), kind
    for code, cls in ERRORS.items():
        assert f"| `{code}` | {'yes' if cls.retryable else 'no'} |" in PAGE


def test_the_examples_are_messages() -> None:
    examples = [block.split() for block in re.findall(r"```\n((?:[0-9a-f-]+\n){5})```", PAGE)]
    records = []
    for example in examples:
        frames = [b"" if frame == "-" else bytes.fromhex(frame) for frame in example]
        records += codec.decode(frames, messages.KINDS.keys())
    assert [type(record) for record in records] == [Hello, Request, Failure]


# ---- the plain client -----------------------------------------------------------------------------------------------


def test_it_uses_nothing_but_pyzmq_and_msgpack() -> None:
    tree = ast.parse(Path(__file__).with_name("plain_client.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= {"__future__", "os", "time", "typing", "msgpack", "zmq"}


@pytest.mark.parametrize("double", [EchoBroker, BusyBroker, ForgetfulBroker])
def test_it_finds_hits(double: type[EchoBroker]) -> None:
    with double() as broker:
        assert plain_client().search(broker.url, "a", 2, 10.0) == [("a", 1.0), ("a/1", 0.5)]


def test_it_says_what_is_wrong() -> None:
    with RefusingBroker() as broker, pytest.raises(RuntimeError, match="poison_request: it ended a worker"):
        plain_client().search(broker.url, "poison", 2, 10.0)
    for double in (MuteBroker, DroppingBroker):
        with double() as broker, pytest.raises(TimeoutError):
            plain_client().search(broker.url, "a", 2, 0.3)
