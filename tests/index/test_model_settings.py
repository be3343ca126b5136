"""A model that changed in anything that decides its vectors is another one; a copy of it, however it is spelled, is the same."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from ragpool.index import build as builder
from ragpool.index.build import BuildOptions, build_index
from ragpool.index.build_state import read_json
from ragpool.index.checks import verify_search
from ragpool.index.chunks import Chunking
from ragpool.index.encoder import SentenceEncoder, load_index_encoder
from ragpool.index.errors import ModelUnusable
from ragpool.index.manifest import Manifest, parse_manifest, read_manifest
from ragpool.index.model_settings import changed, model_settings
from ragpool.index.models import model_fingerprint, resolve_model
from ragpool.index.own_rows import check_own_rows, differing_files
from ragpool.index.staging import STAGING
from ragpool.index.store import open_index

Jsonl = Callable[..., Path]
ROWS = [{"_id": str(n), "text": f"a passage {n} about cats and dogs"} for n in range(12)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "m1"))


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def cls_pooling(model: Path) -> None:
    change(model / "1_Pooling" / "config.json", pooling_mode="cls")


def shorter(model: Path) -> None:
    change(model / "sentence_bert_config.json", max_seq_length=8)


def other_words(model: Path) -> None:
    path = model / "tokenizer.json"
    fields = json.loads(path.read_text())
    fields["normalizer"]["lowercase"] = False
    path.write_text(json.dumps(fields))


CHANGES = [(cls_pooling, "1_Pooling/config.json"), (shorter, "sentence_bert_config.json"), (other_words, "tokenizer.json")]


@pytest.mark.parametrize(("changing", "name"), CHANGES)
def test_what_decides_the_vectors_is_told_from_other_files(model: Path, changing: Callable[[Path], None], name: str) -> None:
    before = model_settings(model)
    changing(model)
    assert changed(before, model_settings(model)) == [name]


def test_a_copy_of_the_packaged_model_is_the_same(tmp_path: Path) -> None:
    """With a model card, a graph for another runtime, git's and the hub's own files, and its configuration laid out anew."""
    packaged = resolve_model("all-MiniLM-L6-v2")
    copy = tmp_path / "copy"
    shutil.copytree(packaged, copy, copy_function=os.symlink)
    for name in ("onnx/config.json", ".git/config.json", ".cache/huggingface/tokenizer.json", "notes.json", "eval/config.txt"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("{}")
    (copy / "README.md").unlink()
    fields = json.loads((copy / "config.json").read_text())
    (copy / "config.json").unlink()
    (copy / "config.json").write_text(json.dumps({**fields, "_name_or_path": "elsewhere"}, indent=4))
    modules = json.loads((copy / "modules.json").read_text())
    (copy / "modules.json").unlink()
    (copy / "modules.json").write_text(json.dumps(modules))
    assert model_settings(copy) == model_settings(packaged)
    assert {"modules.json", "tokenizer.json", "1_Pooling/config.json"} <= model_settings(packaged).keys()


def test_a_static_model_and_one_without_a_whole_tokenizer(tmp_path: Path) -> None:
    assert any(name.endswith("tokenizer.json") for name in model_settings(tiny_models.make("static", tmp_path)))
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "vocab.txt").write_text("a\nb\n")
    assert list(model_settings(tmp_path / "slow")) == ["vocab.txt"]
    (tmp_path / "slow" / "config.json").write_text("no JSON")
    assert list(model_settings(tmp_path / "slow")) == ["config.json", "vocab.txt"]


def options(model: object, **given: Any) -> BuildOptions:
    return BuildOptions(model=str(model), device="cpu", backend="torch", **given)


@pytest.fixture
def index(model: Path, jsonl: Jsonl, tmp_path: Path) -> Manifest:
    return build_index([jsonl(ROWS)], tmp_path / "out", options(model)).manifest


def test_an_index_is_not_served_by_a_model_that_gives_other_vectors(model: Path, index: Manifest, tmp_path: Path) -> None:
    cls_pooling(model)
    assert model_fingerprint(model) == index.model.sha256
    with open_index(tmp_path / "out") as opened:
        encoder = load_index_encoder(index, "cpu", backend="torch")
        for refuse in (lambda: check_own_rows(opened, encoder), lambda: verify_search(opened)):
            with pytest.raises(ModelUnusable) as caught:
                refuse()
            assert str(caught.value) == (
                f"the index {opened.path} was built with the model {model}, and {model} is another one here: "
                "of the same weights, but 1_Pooling/config.json differs"
            )


def test_a_model_that_gives_the_same_vectors_is_served_whatever_its_files_say(
    model: Path, index: Manifest, tmp_path: Path
) -> None:
    """Another release of the library writes them anew when it saves a model."""
    other_words(model)
    with open_index(tmp_path / "out") as opened:
        encoder = load_index_encoder(index, "cpu", backend="torch")
        check_own_rows(opened, encoder)
        assert differing_files(opened, encoder) == ["tokenizer.json"]
        assert "finds itself" in verify_search(opened).found


def test_a_model_that_reads_less_of_a_text_is_another_one(model: Path, index: Manifest) -> None:
    shorter(model)
    with pytest.raises(ModelUnusable, match=f"reading {index.max_length} tokens of a text, and {model} reads 8 here"):
        load_index_encoder(index, "cpu", backend="torch")


def test_an_index_of_a_version_that_did_not_look_is_served(index: Manifest) -> None:
    fields = json.loads(index.to_json())
    del fields["model"]["settings"]
    older = parse_manifest(json.dumps(fields), "here")
    assert older == dataclasses.replace(index, model=dataclasses.replace(index.model, settings={}))
    assert load_index_encoder(older, "cpu", backend="torch").dim == index.dim


def left_after_a_shard(monkeypatch: pytest.MonkeyPatch, corpus: Path, out: Path, given: BuildOptions) -> None:
    """A build of three shards of four passages that ends when one is encoded."""
    monkeypatch.setattr(builder, "_SHARD_ROWS", {"cpu": 4})
    calls: list[int] = []

    def encode(self: SentenceEncoder, *args: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise OSError("the device is gone")
        return encoding(self, *args)

    encoding = SentenceEncoder.encode
    with monkeypatch.context() as patch:
        patch.setattr(SentenceEncoder, "encode", encode)
        with pytest.raises(OSError, match="the device is gone"):
            build_index([corpus], out, given)


@pytest.mark.parametrize(("changing", "name"), CHANGES)
def test_a_build_does_not_go_on_with_its_model_changed(
    model: Path, jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changing: Callable[[Path], None], name: str
) -> None:
    corpus, told = jsonl(ROWS), list[str]()
    left_after_a_shard(monkeypatch, corpus, tmp_path / "out", options(model))
    changing(model)
    built = build_index([corpus], tmp_path / "out", options(model), tell=told.append).manifest
    (sentence,) = told
    assert sentence.startswith("what was encoded so far is thrown away: ")
    assert f"{name} of the model changed" in sentence
    assert built.files == build_index([corpus], tmp_path / "straight", options(model)).manifest.files
    with open_index(tmp_path / "out") as opened:
        verify_search(opened)


def test_pieces_are_cut_again_where_the_tokenizer_changed(
    model: Path, jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = jsonl(ROWS)
    cut = options(model, chunking=Chunking(6))
    left_after_a_shard(monkeypatch, corpus, tmp_path / "out", cut)
    before = read_json(tmp_path / "out" / STAGING / "passages.json")["reading"]
    other_words(model)
    left_after_a_shard(monkeypatch, corpus, tmp_path / "out", cut)
    assert read_json(tmp_path / "out" / STAGING / "passages.json")["reading"] != before


def test_another_spelling_of_its_folder_is_the_same_model(
    model: Path, jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, out, told = jsonl(ROWS), tmp_path / "out", list[str]()
    monkeypatch.chdir(tmp_path)
    os.symlink("m1", "linked")
    left_after_a_shard(monkeypatch, corpus, out, options("m1"))
    left_after_a_shard(monkeypatch, corpus, out, options("m1/"))
    build_index([corpus], out, options(tmp_path / "linked"), tell=told.append)
    assert told == ["going on: 8 of 12 passages are encoded already"]
    assert read_manifest(out).model.name == str(model)
    monkeypatch.chdir("/")
    with open_index(out) as opened:
        assert "finds itself" in verify_search(opened).found


def test_a_folder_that_was_moved_is_the_same_model_and_called_by_its_new_name(
    model: Path, jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, out, told = jsonl(ROWS), tmp_path / "out", list[str]()
    left_after_a_shard(monkeypatch, corpus, out, options(model))
    moved = model.rename(tmp_path / "m2")
    build_index([corpus], out, options(moved), tell=told.append)
    assert told == ["going on: 4 of 12 passages are encoded already"]
    assert read_manifest(out).model.name == str(moved)


def test_a_folder_whose_name_no_manifest_can_hold_is_refused(model: Path, jsonl: Jsonl, tmp_path: Path) -> None:
    moved = model.rename(os.fsdecode(os.fsencode(tmp_path) + b"/m\xff"))
    with pytest.raises(ModelUnusable, match=r"the name of the model '.*m\\udcff' is not UTF-8, as an index records it"):
        build_index([jsonl(ROWS)], tmp_path / "out", options(moved))
    assert not (tmp_path / "out").exists()
