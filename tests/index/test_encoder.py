"""The encoder gives the model's own vectors, on the device it was told, or one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ragpool.conf.settings import ConfigurationError
from ragpool.index.build import Built
from ragpool.index.encoder import SentenceEncoder, load_encoder, load_index_encoder
from ragpool.index.errors import DeviceFull, DeviceUnavailable, ModelUnusable
from ragpool.index.manifest import Manifest
from ragpool.index.models import Prefixes, known_prefixes, model_fingerprint, resolve_model
from ragpool.index.tokens import Tokenized, even_batches, padded_batches
from ragpool.index.unpadded import RunningUnpadded

TEXTS = ["short", "", "a longer one about " + "dogs and cats " * 30, "word " * 600, "Ünïcödé ✓ 漢字", "of middling length"]
MODEL = "all-MiniLM-L6-v2"
INSTRUCT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


def test_vectors_are_those_of_the_library(encoder: SentenceEncoder, library: Any) -> None:
    truth = library.encode(TEXTS, show_progress_bar=False)
    encoded = encoder.encode(TEXTS)
    assert encoded.vectors.dtype == np.float32
    assert np.abs(encoded.vectors - truth).max() < 1e-5
    assert encoded.truncated == [False, False, False, True, False, False]
    assert encoded.tokens[:2] == [3, 2]
    assert encoded.tokens[3] == encoder.max_length == 256


def test_its_attributes(encoder: SentenceEncoder) -> None:
    assert (encoder.model, encoder.dim, encoder.device, encoder.dtype, encoder.backend) == (MODEL, 384, "cpu", "float32", "torch")
    assert encoder.normalize
    assert encoder.fingerprint.startswith("53aa5117")
    assert encoder.encode([]).vectors.shape == (0, 384)


def test_small_batches_change_nothing(encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoder.encode(TEXTS).vectors
    monkeypatch.setattr(encoder, "max_batch_tokens", 1)
    assert np.abs(encoder.encode(TEXTS).vectors - whole).max() < 1e-5


def test_prefixes_stand_before_texts(encoder: SentenceEncoder, library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "prefixes", Prefixes("query: ", "passage: "))
    bare = library.encode(["query: x", "passage: x"])
    assert np.abs(encoder.encode(["x"], "query").vectors - bare[0]).max() < 1e-5
    assert np.abs(encoder.encode(["x"], "passage").vectors - bare[1]).max() < 1e-5


def test_the_usual_model_runs_without_its_padding(encoder: SentenceEncoder) -> None:
    assert isinstance(encoder._running, RunningUnpadded)


def test_half_precision_stays_of_length_one() -> None:
    encoder = load_encoder(MODEL, "cpu", "bfloat16")
    vectors = encoder.encode(TEXTS).vectors
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    assert encoder.dtype == "bfloat16"


class Cramped:
    """A device that has memory for passes of `fits` padded tokens; the first value of a row is the first token of its text."""

    def __init__(self, fits: int) -> None:
        self.fits = fits
        self.refused: list[tuple[int, int]] = []
        self.passes = 0

    def embed(self, features: dict[str, Any]) -> torch.Tensor:
        ids = features["input_ids"]
        if ids.numel() > self.fits:
            self.refused.append(tuple(ids.shape))
            raise torch.cuda.OutOfMemoryError
        self.passes += 1
        return ids[:, :1].float().expand(-1, 384)


def cramped(encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch, fits: int, budget: int) -> Cramped:
    """`encoder` on such a device, its passes cut as on CUDA."""
    device = Cramped(fits)
    monkeypatch.setattr(encoder, "_embed", device.embed)
    monkeypatch.setattr(encoder, "max_batch_tokens", budget)
    monkeypatch.setattr(encoder._running, "passes", lambda lengths, budget: padded_batches(lengths, budget, 1_024, 4_096))
    return device


@pytest.mark.parametrize(
    ("texts", "length", "fits", "left", "refused"),
    [(4_096, 128, 8_192, 8_192, 1), (128, 128, 2_048, 2_048, 3), (300, 7, 2_100, 16_384, 0), (40, 250, 250, 250, 5)],
)
def test_a_pass_that_finds_no_memory_halves_the_budget_once(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch, texts: int, length: int, fits: int, left: int, refused: int
) -> None:
    """Each pass that was cut before the first failure halved it again: 16,384 tokens became 1, and a build went text by text."""
    device = cramped(encoder, monkeypatch, fits, 16_384)
    ids = [[number + 1] * length for number in range(texts)]
    vectors = encoder.encode_tokens(Tokenized(ids, [False] * texts)).vectors
    assert vectors[:, 0].tolist() == [number + 1 for number in range(texts)]
    assert (encoder.max_batch_tokens, len(device.refused)) == (left, refused)
    assert device.passes >= texts * length / fits


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(300, 3_000), st.integers(1, 20_000))
def test_every_text_gets_its_own_row_whatever_fits(encoder: SentenceEncoder, lengths: list[int], fits: int, budget: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        device = cramped(encoder, monkeypatch, fits, budget)
        ids = [[number + 1] * length for number, length in enumerate(lengths)]
        vectors = encoder.encode_tokens(Tokenized(ids, [False] * len(ids))).vectors
        assert vectors[:, 0].tolist() == [number + 1 for number in range(len(ids))]
        assert encoder.max_batch_tokens <= budget
        assert len(device.refused) <= 15


def test_a_text_that_finds_no_memory_alone_is_an_error(encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    cramped(encoder, monkeypatch, 0, 100)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        encoder.encode(["two short", "texts"])
    assert encoder.max_batch_tokens == 4


@pytest.mark.parametrize("step", ["SentenceTransformer", "to"])
def test_a_model_that_finds_no_room_now_may_find_it_later(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """It was a fault of the configuration, and its worker was given up for good."""
    import sentence_transformers

    def full(*args: Any, **named: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    if step == "to":
        monkeypatch.setattr(sentence_transformers.SentenceTransformer, "to", full)
    else:
        monkeypatch.setattr(sentence_transformers, step, full)
    with pytest.raises(DeviceFull, match=f"^the model {MODEL} finds no room on cpu now: CUDA out of memory. Tried to allocate"):
        load_encoder(MODEL, "cpu")


def test_values_that_are_not_finite_are_an_error(encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "_embed", lambda features: torch.full((len(features["input_ids"]), 384), float("nan")))
    with pytest.raises(ModelUnusable, match="not finite in float32"):
        encoder.encode(["x"])


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "cuda:", "cuda:-1", "CPU", ""])
def test_a_device_that_is_not_there_is_no_other_device(device: str) -> None:
    with pytest.raises(DeviceUnavailable) as caught:
        load_encoder(MODEL, device)
    assert "cpu" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no-such-model", "there is no model no-such-model"),
        ("nobody/no-such-model", "there is no model nobody/no-such-model"),
        ("./no/folder", "there is no model folder './no/folder'"),
        ("", "there is no model folder ''"),
        ("two words", "there is no model two words"),
    ],
)
def test_a_wrong_model_is_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(ModelUnusable) as caught:
        load_encoder(name, "cpu")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"holds no model: it has neither modules\.json nor config\.json"):
        load_encoder(str(tmp_path), "cpu")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelUnusable) as caught:
        load_encoder(str(tmp_path), "cpu")
    assert "\n" not in str(caught.value)


def test_an_unknown_dtype() -> None:
    with pytest.raises(ConfigurationError, match="no dtype 'float8'"):
        load_encoder(MODEL, "cpu", "float8")


def test_the_model_of_an_index_and_no_other(small: Built) -> None:
    manifest: Manifest = small.manifest
    folder = resolve_model(MODEL)
    assert load_index_encoder(manifest, "cpu", model=folder).fingerprint == manifest.model.sha256
    other = type(manifest.model)("another", "0" * 64)
    wrong = type(manifest)(**{name: getattr(manifest, name) for name in manifest.__dataclass_fields__} | {"model": other})
    with pytest.raises(ModelUnusable, match=f"built with the model another .* and {folder} is another one here"):
        load_index_encoder(wrong, "cpu", model=folder)


def test_names_of_the_packaged_model() -> None:
    assert resolve_model(MODEL) == resolve_model(f"sentence-transformers/{MODEL}")
    assert model_fingerprint(resolve_model(MODEL)) == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def test_the_fingerprint_of_several_files(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="holds no weights"):
        model_fingerprint(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"a")
    one = model_fingerprint(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(b"b")
    two = model_fingerprint(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(b"c")
    assert len({one, two, model_fingerprint(tmp_path)}) == 3


@pytest.mark.parametrize(
    ("model", "query", "passage"),
    [
        ("intfloat/e5-base-v2", "query: ", "passage: "),
        ("/models/multilingual-e5-large", "query: ", "passage: "),
        ("intfloat/multilingual-e5-large-instruct", INSTRUCT + " ", ""),
        ("Qwen/Qwen3-Embedding-0.6B", INSTRUCT, ""),
        ("Alibaba-NLP/gte-Qwen2-1.5B-instruct", INSTRUCT + " ", ""),
        ("thenlper/gte-base", "", ""),
        ("minishlab/potion-base-8M", "", ""),
        ("nomic-ai/nomic-embed-text-v1.5", "search_query: ", "search_document: "),
        ("BAAI/bge-base-zh-v1.5", "为这个句子生成表示以用于检索相关文章：", ""),
        ("BAAI/bge-small-en-v1.5", "Represent this sentence for searching relevant passages: ", ""),
        ("BAAI/bge-m3", "", ""),
        ("Snowflake/snowflake-arctic-embed-m-v1.5", "Represent this sentence for searching relevant passages: ", ""),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", "query: ", ""),
        ("all-MiniLM-L6-v2", "", ""),
    ],
)
def test_known_conventions(model: str, query: str, passage: str) -> None:
    assert known_prefixes(model) == Prefixes(query, passage)


def test_padded_batches_hold_like_lengths_within_the_budget() -> None:
    lengths = [5, 100, 7, 90, 6, 300]
    found = list(padded_batches(lengths, budget=200, most=2, forward_tokens=1_000))
    assert found == [[5], [1, 3], [2, 4], [0]]
    assert list(padded_batches([], 200, 2, 16)) == []


def test_even_batches_share_their_tokens_out() -> None:
    assert [len(batch) for batch in even_batches([10] * 30, 256)] == [15, 15]
    assert len(list(even_batches([10] * 25, 256))) == 1
    assert list(even_batches([500, 10], 256)) == [[0], [1]]
    assert list(even_batches([], 256)) == []
    assert list(even_batches([0], 256)) == [[0]]


def test_even_batches_leave_no_small_one_behind() -> None:
    """Two passes became three, the last of a single text."""
    lengths = [21, 18, 17, 17, 16, 15, 15, 15, 15, 14, 14, 13, 13, 13, 13, *[12] * 9, 11, 10, 10, 10, 10, 10, 9, 8]
    tokens = [sum(lengths[position] for position in batch) for batch in even_batches(lengths, 256)]
    assert len(tokens) == 2
    assert max(tokens) - min(tokens) <= 21


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 2_000), st.integers(1, 20), st.integers(0, 500))
def test_padded_batches_cover_everything_and_waste_no_more_than_a_forward_pass(
    lengths: list[int], budget: int, most: int, forward_tokens: int
) -> None:
    found = list(padded_batches(lengths, budget, most, forward_tokens))
    assert sorted(position for batch in found for position in batch) == list(range(len(lengths)))
    for batch in found:
        longest = max(lengths[position] for position in batch)
        assert len(batch) <= most
        assert len(batch) == 1 or longest * len(batch) <= budget
        assert sum(longest - lengths[position] for position in batch) <= forward_tokens


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 2_000))
def test_even_batches_cover_everything_in_as_few_as_there_need_to_be(lengths: list[int], budget: int) -> None:
    found = list(even_batches(lengths, budget))
    assert sorted(position for batch in found for position in batch) == list(range(len(lengths)))
    assert len(found) <= max(1, -(-sum(lengths) // budget))
    for batch in found:
        assert sum(lengths[position] for position in batch) <= budget + max(lengths)
