"""A manifest is read back as it was written, and anything else is one sentence."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ragpool.index.build import Built
from ragpool.index.errors import IndexDamaged, IndexUnusable
from ragpool.index.manifest import MANIFEST_NAME, parse_manifest, read_manifest, write_manifest


@pytest.fixture
def copied(small: Built, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.path, tmp_path / "copy"))


def test_what_was_written_is_read_back(small: Built, copied: Path) -> None:
    manifest = read_manifest(copied)
    assert manifest == small.manifest
    write_manifest(copied, manifest)
    assert read_manifest(copied) == manifest
    assert [path for path in copied.iterdir() if path.name.startswith(f".{MANIFEST_NAME}")] == []


def test_one_of_an_earlier_version_is_read(small: Built) -> None:
    fields = json.loads(small.manifest.to_json())
    del fields["truncated"]
    assert parse_manifest(json.dumps(fields), "there") == small.manifest


def test_it_tells_what_the_contract_wants_told(small: Built) -> None:
    manifest = small.manifest
    assert manifest.count == 6
    assert manifest.dim == 384
    assert manifest.type == "flat"
    assert manifest.model.name == "all-MiniLM-L6-v2"
    assert manifest.model.sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert manifest.normalized
    assert manifest.max_length == 256
    assert 0.0005 < manifest.norms.error_max < 2**-8
    assert {"python", "ragpool", "torch"} <= manifest.tools.keys()
    assert all(manifest.version in entry.name for entry in manifest.files.values())


def test_a_folder_that_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(IndexUnusable, match="does not exist"):
        read_manifest(tmp_path / "nothing")
    with pytest.raises(IndexUnusable, match=r"has no manifest\.json"):
        read_manifest(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(IndexUnusable, match="is not a folder"):
        read_manifest(tmp_path / "file")


def test_a_missing_or_cut_file_is_named(copied: Path) -> None:
    entry = read_manifest(copied).files["f32"]
    with open(copied / entry.name, "r+b") as file:
        file.truncate(entry.size - 1)
    with pytest.raises(IndexDamaged, match=f"{entry.name} has {entry.size - 1} bytes, its manifest says {entry.size}"):
        read_manifest(copied)
    (copied / entry.name).unlink()
    with pytest.raises(IndexDamaged, match=f"{entry.name} cannot be read"):
        read_manifest(copied)


def test_another_format_is_no_damage(small: Built) -> None:
    fields = json.loads(small.manifest.to_json()) | {"format": 2}
    with pytest.raises(IndexUnusable, match="has format 2 and this version reads format 1") as caught:
        parse_manifest(json.dumps(fields), "here")
    assert not isinstance(caught.value, IndexDamaged)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"format": "1"}, "format is not of type int"),
        ({"count": 0}, "at least 1"),
        ({"count": "6"}, "count is not of type int"),
        ({"count": True}, "count is not of type int"),
        ({"count": 10**4000}, "too large"),
        ({"version": "x"}, "version is not 16 hexadecimal digits"),
        ({"metric": "l2"}, "metric 'l2' is not known"),
        ({"norms": {}}, "norms has no dtype"),
        ({"norms": {"dtype": "bfloat16", "half_max": float("nan"), "error_max": 0, "full_max": 1}}, "half_max is not a finite"),
        ({"files": {}}, "files is empty"),
        ({"files": {"f32": {"name": "../../etc/passwd", "size": 1, "sha256": "0" * 64}}}, "is not a file of version"),
        ({"model": None}, "model is not a map"),
    ],
)
def test_a_field_that_is_wrong_is_named(small: Built, changed: dict[str, Any], sentence: str) -> None:
    fields = json.loads(small.manifest.to_json()) | changed
    with pytest.raises(IndexDamaged, match=sentence) as caught:
        parse_manifest(json.dumps(fields), "here")
    assert "\n" not in str(caught.value)


@given(st.data())
def test_a_field_that_is_missing_or_of_another_type_never_raises_anything_else(small: Built, data: st.DataObject) -> None:
    fields = json.loads(small.manifest.to_json())
    inner = data.draw(st.sampled_from([fields, fields["model"], fields["corpus"], fields["norms"], fields["files"]["rows"]]))
    name = data.draw(st.sampled_from(sorted(inner)))
    if data.draw(st.booleans()):
        del inner[name]
    else:
        inner[name] = data.draw(st.sampled_from([None, "", -1, 1.5, [], {}, [1], {"a": 1}, True, "x" * 64]))
    with contextlib.suppress(IndexUnusable):
        parse_manifest(json.dumps(fields), "here")


@given(st.text(max_size=50))
def test_text_that_is_no_manifest(text: str) -> None:
    with pytest.raises(IndexUnusable):
        parse_manifest(text, "here")


def test_fields_of_a_later_version_are_ignored(small: Built) -> None:
    fields = json.loads(small.manifest.to_json()) | {"something": "new"}
    assert parse_manifest(json.dumps(fields), "here") == small.manifest
