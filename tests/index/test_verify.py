"""A byte that flipped anywhere is found, once per host; and an intact index passes."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
from ragpool.index.build import Built
from ragpool.index.checks import verify_all, verify_passages, verify_search, verify_vectors
from ragpool.index.errors import IndexDamaged
from ragpool.index.manifest import MANIFEST_NAME, read_manifest
from ragpool.index.store import open_index
from ragpool.index.verify import HASHING_LOCK, REMEMBERED, verify_files, verify_once


@pytest.fixture
def copied(small: Built, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.path, tmp_path / "copy"))


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_an_intact_index_passes(small: Built) -> None:
    checks = verify_all(small.path)
    assert [check.name for check in checks] == ["manifest", "checksums", "passages", "vectors", "search"]
    assert "'tea' finds itself" in checks[-1].found


@pytest.mark.parametrize("role", ["rows", "offsets", "ids", "f32", "bf16"])
@pytest.mark.parametrize("where", ["first", "last before the trailer", "trailer"])
def test_a_flipped_byte_is_found(copied: Path, role: str, where: str) -> None:
    entry = read_manifest(copied).files[role]
    flip(copied / entry.name, {"first": 0, "last before the trailer": -65, "trailer": -1}[where])
    with pytest.raises(IndexDamaged):
        verify_all(copied)


def test_files_of_two_indexes_are_not_mixed(copied: Path) -> None:
    manifest = read_manifest(copied)
    other = manifest.files["f32"]
    path = copied / other.name
    os.replace(path, copied / "aside")
    path.write_bytes((copied / manifest.files["bf16"].name).read_bytes().ljust(other.size, b"\0"))
    with pytest.raises(IndexDamaged, match="damaged or exchanged"):
        open_index(copied)


def test_passages_and_vectors_are_checked_beyond_their_checksums(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(copied)
    flip(copied / manifest.files["ids"].name, 3)
    flip(copied / manifest.files["bf16"].name, 8)
    with open_index(copied) as index:
        with pytest.raises(IndexDamaged, match="checksum"):
            verify_files(index)
        with pytest.raises(IndexDamaged, match="is not found by its id"):
            verify_passages(index)
        with pytest.raises(IndexDamaged, match="does not fit its copy"):
            verify_vectors(index)


def test_vectors_of_other_passages_do_not_find_them(copied: Path) -> None:
    manifest = read_manifest(copied)
    path = copied / manifest.files["f32"].name
    data = path.read_bytes()
    width = 4 * manifest.dim
    path.write_bytes(data[width : 6 * width] + data[:width] + data[6 * width :])
    with open_index(copied) as index, pytest.raises(IndexDamaged, match="does not find its passage 'tea'"):
        verify_search(index)


def test_checksums_are_taken_once(copied: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    index = open_index(copied)
    assert verify_once(index, cache)
    assert not verify_once(index, cache)
    assert not verify_once(open_index(copied), cache)
    assert len(json.loads((cache / REMEMBERED).read_text())) == 5


def remembered(cache: Path) -> int:
    return len(json.loads((cache / REMEMBERED).read_text())) if (cache / REMEMBERED).exists() else 0


class Stopped(Exception):
    """Whoever hashed was ended."""


def test_who_is_stopped_on_the_way_leaves_only_the_rest_to_the_next(copied: Path, tmp_path: Path) -> None:
    cache, hashed = tmp_path / "cache", []

    def goes_on() -> None:
        hashed.append(remembered(cache))
        if hashed[-1] == 2:
            raise Stopped

    with pytest.raises(Stopped):
        verify_once(open_index(copied), cache, goes_on)
    assert hashed == [0, 1, 2], "each file is remembered as soon as it was hashed"
    hashed.clear()
    assert verify_once(open_index(copied), cache, lambda: hashed.append(remembered(cache)))
    assert hashed == [2, 3, 4]
    assert not verify_once(open_index(copied), cache)


def test_what_verify_has_hashed_no_worker_hashes_again(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    verify_all(copied)
    assert not verify_once(open_index(copied))
    verify_all(copied)
    assert remembered(tmp_path / "xdg" / "ragpool") == 5


def test_a_damaged_file_is_not_remembered_and_whole_ones_are(copied: Path, tmp_path: Path) -> None:
    files = list(read_manifest(copied).files.values())
    flip(copied / files[2].name, 1)
    with pytest.raises(IndexDamaged):
        verify_files(open_index(copied), tmp_path)
    assert remembered(tmp_path) == 2


@pytest.mark.process
def test_who_waits_for_another_says_that_it_goes_on(copied: Path, tmp_path: Path) -> None:
    waited = []
    with open(tmp_path / HASHING_LOCK, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def goes_on() -> None:
            waited.append(remembered(tmp_path))
            os.utime(tmp_path / HASHING_LOCK, ns=(len(waited), len(waited)))
            if len(waited) == 3:
                fcntl.flock(other, fcntl.LOCK_UN)

        assert verify_once(open_index(copied), tmp_path, goes_on)
    assert waited[:3] == [0, 0, 0]
    assert len(waited) == 3 + 5


@pytest.mark.process
def test_who_waits_for_one_that_stands_still_does_not_say_that_it_goes_on(copied: Path, tmp_path: Path) -> None:
    told: list[bool] = []
    with open(tmp_path / HASHING_LOCK, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        free = threading.Timer(1.0, lambda: fcntl.flock(other, fcntl.LOCK_UN))
        free.start()
        assert verify_once(open_index(copied), tmp_path, lambda: told.append(free.is_alive()))
    assert sum(told) <= 2, "one look, and perhaps one while the lock was let go"


def test_a_file_that_changed_is_hashed_again(copied: Path, tmp_path: Path) -> None:
    entry = read_manifest(copied).files["f32"]
    assert verify_once(open_index(copied), tmp_path / "cache")
    flip(copied / entry.name, 5)
    for _ in range(2):
        with pytest.raises(IndexDamaged, match=f"{entry.name} does not have the checksum"):
            verify_once(open_index(copied), tmp_path / "cache")


def test_a_memory_that_is_damaged_or_cannot_be_written_only_costs_time(copied: Path, tmp_path: Path) -> None:
    index = open_index(copied)
    (tmp_path / REMEMBERED).write_text("[1")
    assert verify_once(index, tmp_path)
    assert not verify_once(index, tmp_path)
    (tmp_path / "file").write_text("")
    assert verify_once(index, tmp_path / "file" / "cache")
    assert verify_once(index, tmp_path / "file" / "cache")


def test_the_default_memory_is_in_the_cache_folder(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert verify_once(open_index(copied))
    assert (tmp_path / "xdg" / "ragpool" / REMEMBERED).exists()
    assert (copied / MANIFEST_NAME).exists()
