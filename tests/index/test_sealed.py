"""A sealed file is read back as it was written, and is never taken for another."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ragpool.index.errors import IndexDamaged
from ragpool.index.sealed import Trailer, Unsealed, is_free, map_sealed

VERSION = "0123456789abcdef"


def sealed(path: Path, parts: list[bytes]) -> Trailer:
    path.write_bytes(b"".join(parts))
    unsealed = Unsealed(path)
    assert unsealed.data_digest() == hashlib.sha256(b"".join(parts)).digest()
    data_bytes = unsealed.data_bytes
    size, sha256 = unsealed.seal("rows", 3, 0, VERSION)
    assert size == path.stat().st_size
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    return Trailer("rows", 3, 0, data_bytes, VERSION)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=200), max_size=5))
def test_the_data_comes_back(tmp_path: Path, parts: list[bytes]) -> None:
    trailer = sealed(tmp_path / "file", parts)
    data = map_sealed(tmp_path / "file", trailer)
    assert data.tobytes() == b"".join(parts)
    assert data.ctypes.data % 64 == 0
    assert (tmp_path / "file").stat().st_size % 64 == 0
    assert not data.flags.writeable


@pytest.mark.parametrize("field", ["role", "rows", "width", "version"])
def test_a_file_of_another_kind_or_version_is_refused(tmp_path: Path, field: str) -> None:
    trailer = sealed(tmp_path / "file", [b"data"])
    other = dataclasses.replace(trailer, **{field: "x" if field in ("role", "version") else 7})
    with pytest.raises(IndexDamaged, match="damaged or exchanged"):
        map_sealed(tmp_path / "file", other)


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    trailer = sealed(tmp_path / "file", [b"data"])
    with open(tmp_path / "file", "ab") as file:
        file.write(b"x")
    with pytest.raises(IndexDamaged, match="129 bytes and must have 128"):
        map_sealed(tmp_path / "file", trailer)


def test_a_mapped_file_is_not_free_until_the_last_reference_is_gone(tmp_path: Path) -> None:
    trailer = sealed(tmp_path / "file", [b"data"])
    assert is_free(tmp_path / "file")
    data = map_sealed(tmp_path / "file", trailer)
    part = data[1:3]
    del data
    assert not is_free(tmp_path / "file")
    del part
    assert is_free(tmp_path / "file")
