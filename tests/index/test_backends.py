"""Every backend that is installed gives sentence-transformers' own vectors, for each architecture, alone and in company."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ragpool.conf.settings import ConfigurationError
from ragpool.index import backends, export, runtimes
from ragpool.index.encoder import SentenceEncoder, load_encoder
from ragpool.index.errors import ModelUnusable
from ragpool.index.model_loading import load_model
from ragpool.index.models import Prefixes
from ragpool.index.packed import PackedLinear, pack
from ragpool.index.running import RunningTorch
from ragpool.index.unpadded import PASS_TOKENS, NotUnpadded, RunningUnpadded, _rows

os.environ["HF_HUB_OFFLINE"] = "1"

MODEL = "all-MiniLM-L6-v2"
TEXTS = ["what is the first question", "", "cats and dogs in norway " * 3, "hamlet " * 80, "Ünïcödé ✓ 漢字 \u200d 1 2", "norway"]
TOLERANCE = 2e-5

MakeModel = Callable[[str], Path]


def needs(backend: str) -> None:
    if absent := runtimes.missing(backend):
        pytest.skip(f"the {backend} backend needs {', '.join(absent)}")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """The folder of an architecture's tiny model, made once."""
    return cache(lambda architecture: tiny_models.make(architecture, tmp_path_factory.mktemp(architecture)))


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "ragpool"


def truth(folder: Path, kind: str, normalize: bool) -> np.ndarray[Any, Any]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    encode = model.encode_query if kind == "query" else model.encode_document
    vectors: np.ndarray[Any, Any] = encode(TEXTS, show_progress_bar=False)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12) if normalize else vectors


@pytest.mark.parametrize("architecture", [name for name in tiny_models.ARCHITECTURES if name != "static"])
@pytest.mark.parametrize("backend", runtimes.BACKENDS)
def test_vectors_of_each_architecture_are_the_librarys(tiny: MakeModel, backend: str, architecture: str) -> None:
    needs(backend)
    encoder = load_encoder(str(tiny(architecture)), "cpu", backend=backend)
    assert encoder.backend == backend
    for kind in ("query", "passage"):
        encoded = encoder.encode(TEXTS, kind)  # type: ignore[arg-type]
        assert np.abs(encoded.vectors - truth(tiny(architecture), kind, encoder.normalize)).max() < TOLERANCE
    assert encoded.truncated == [False, False, False, True, False, False]
    assert encoded.tokens[3] == encoder.max_length == tiny_models.MAX_LENGTH


def test_a_static_model_is_served_by_torch_alone(tiny: MakeModel, caplog: pytest.LogCaptureFixture) -> None:
    encoder = load_encoder(str(tiny("static")), "cpu")
    encoded = encoder.encode(TEXTS)
    assert np.abs(encoded.vectors - truth(tiny("static"), "query", encoder.normalize)).max() < TOLERANCE
    assert encoded.truncated == [False] * len(TEXTS)
    assert encoder.backend == "torch"


def test_a_static_model_cannot_be_asked_of_onnx(tiny: MakeModel) -> None:
    needs("onnx")
    with pytest.raises(ModelUnusable, match="only the torch backend serves it"):
        load_encoder(str(tiny("static")), "cpu", backend="onnx")


def test_prompts_of_the_model_stand_before_its_texts(tiny: MakeModel) -> None:
    assert load_encoder(str(tiny("bert_cls")), "cpu").prefixes == Prefixes("query: ", "passage: ")
    assert load_encoder(str(tiny("qwen3")), "cpu").prefixes == Prefixes("Instruct: retrieve the passage\nQuery:", "")
    assert load_encoder(str(tiny("qwen3")), "cpu", query_prefix="q ").prefixes.query == "q "


def changed(folder: Path, at: Path, file: str, **fields: Any) -> Path:
    """A copy of a model folder at `at`, with other values in one of its JSON files."""
    shutil.copytree(folder, at)
    path = at / file
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return at


@pytest.mark.parametrize(("prompts", "query", "passage"), [
    ({"query": "Q: ", "passage": "P: ", "document": "D: "}, "Q: ", "D: "),
    ({"query": "Q: ", "passage": "P: ", "document": ""}, "Q: ", "P: "),
    ({"query": "Q: ", "corpus": "C: "}, "Q: ", "C: "),
    ({"query": "Q: "}, "Q: ", ""),
    ({"both": "B: "}, "B: ", "B: "),
])  # fmt: skip
def test_prompts_in_a_configuration_are_chosen_by_their_names_and_empty_ones_passed_over(
    tiny: MakeModel, tmp_path: Path, prompts: dict[str, str], query: str, passage: str
) -> None:
    named = {"default_prompt_name": "both"} if "both" in prompts else {}
    folder = changed(tiny("bert"), tmp_path / "model", "config_sentence_transformers.json", prompts=prompts, **named)
    assert load_encoder(str(folder), "cpu").prefixes == Prefixes(query, passage)


@pytest.mark.parametrize("architecture", ["bert", "bert_cls", "static", "qwen3"])
@pytest.mark.parametrize("backend", runtimes.BACKENDS)
def test_a_model_that_truncates_its_vectors_gives_their_first_values(
    tiny: MakeModel, tmp_path: Path, backend: str, architecture: str
) -> None:
    """Those of Matryoshka embeddings may; a build with one ended in a traceback."""
    needs(backend)
    if architecture == "static" and backend != runtimes.TORCH:
        pytest.skip("only torch serves it")
    folder = changed(tiny(architecture), tmp_path / "model", "config_sentence_transformers.json", truncate_dim=12)
    encoder = load_encoder(str(folder), "cpu", backend=backend)
    for kind in ("query", "passage"):
        vectors = encoder.encode(TEXTS, kind).vectors  # type: ignore[arg-type]
        assert vectors.shape == (len(TEXTS), encoder.dim) == (len(TEXTS), 12)
        assert np.abs(vectors - truth(folder, kind, encoder.normalize)).max() < TOLERANCE


@pytest.mark.parametrize(("architecture", "reads"), [("bert", 64), ("xlm_roberta", 62), ("mpnet", 62)])
def test_a_model_reads_no_more_of_a_text_than_it_has_positions_for(
    tiny: MakeModel, tmp_path: Path, architecture: str, reads: int
) -> None:
    folder = changed(tiny(architecture), tmp_path / "model", "sentence_bert_config.json", max_seq_length=100_000)
    encoder = load_encoder(str(folder), "cpu")
    assert encoder.max_length == reads
    assert encoder.encode(["hamlet " * 500]).tokens == [reads]


def test_a_model_without_a_table_of_positions_reads_as_much_as_the_library_says(tiny: MakeModel, tmp_path: Path) -> None:
    """`max_position_embeddings` is no limit where positions are relative: 64 in this configuration, -1 in XLNet's."""
    folder = changed(tiny("qwen3"), tmp_path / "model", "sentence_bert_config.json", max_seq_length=100)
    assert load_encoder(str(folder), "cpu").max_length == 100


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")])
def test_want_of_memory_is_no_fault_of_the_model(tiny: MakeModel, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def full(self: RunningTorch, features: Any) -> None:
        raise error

    monkeypatch.setattr(RunningTorch, "run", full)
    with pytest.raises(type(error)):
        load_encoder(str(tiny("bert")), "cpu")


def test_modules_that_do_not_fit_together_are_told_in_one_sentence(tiny: MakeModel, tmp_path: Path) -> None:
    folder = changed(tiny("bert"), tmp_path / "model", "1_Pooling/config.json", pooling_mode="weightedmean")
    loaded = load_model(str(folder), torch.device("cpu"), "float32")

    def forward(features: Any) -> Any:
        raise KeyError("sentence_lengths")

    loaded.model[1].forward = forward
    for backend in (runtimes.TORCH, runtimes.ONNX):
        with pytest.raises(ModelUnusable, match=f"the model {folder} cannot encode: KeyError: 'sentence_lengths'"):
            backends.start(loaded, loaded.model.tokenizer, torch.device("cpu"), "float32", [backend])


# ---- laws of every encoder ------------------------------------------------------------------------------------------

texts = st.text(max_size=60) | st.sampled_from(["", " ", "hamlet " * 100, "\u200d", "\U0001f600", "a\u0301", "\u202eabc", "\n\t"])


@pytest.fixture(scope="session", params=runtimes.BACKENDS)
def loaded(request: pytest.FixtureRequest, tiny: MakeModel) -> SentenceEncoder:
    needs(request.param)
    return load_encoder(str(tiny("bert")), "cpu", backend=request.param)


@settings(max_examples=40, deadline=None)
@given(st.lists(texts, min_size=1, max_size=12), st.randoms())
def test_a_texts_vector_does_not_depend_on_its_company(loaded: SentenceEncoder, batch: list[str], random: Any) -> None:
    together = loaded.encode(batch)
    order = list(range(len(batch)))
    random.shuffle(order)
    shuffled = loaded.encode([batch[position] for position in order])
    assert np.abs(shuffled.vectors - together.vectors[order]).max() < TOLERANCE
    alone = loaded.encode([batch[0]])
    assert np.abs(alone.vectors[0] - together.vectors[0]).max() < TOLERANCE
    assert (alone.tokens[0], alone.truncated[0]) == (together.tokens[0], together.truncated[0])
    twice = loaded.encode([*batch, batch[-1]])
    assert np.abs(twice.vectors[-1] - twice.vectors[len(batch) - 1]).max() < TOLERANCE
    assert np.abs(np.linalg.norm(together.vectors, axis=1) - 1).max() < 1e-5


def test_the_halves_of_encode_are_encode(loaded: SentenceEncoder) -> None:
    tokenized = loaded.tokenize(TEXTS, "passage")
    assert np.array_equal(loaded.encode_tokens(tokenized).vectors, loaded.encode(TEXTS, "passage").vectors)


# ---- what is to be had ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "dtype", "on_cuda", "words"),
    [
        ("torch", "int8", False, "the torch backend has no dtype 'int8': known are float32, float16, bfloat16"),
        ("onnx", "bfloat16", False, "the onnx backend has no dtype 'bfloat16'"),
        ("openvino", "int8", False, "the openvino backend has no dtype 'int8'"),
        ("onnx", "float32", True, "the onnx backend runs on cpu here"),
        ("auto", "float8", False, "no dtype 'float8'"),
        ("auto", "int8", True, "no dtype 'int8' on a CUDA device"),
    ],
)
def test_what_does_not_exist_is_refused_in_a_sentence(backend: str, dtype: str, on_cuda: bool, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        runtimes.candidates(backend, dtype, on_cuda)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "missing", lambda backend: () if backend == "torch" else ("onnxruntime",))
    with pytest.raises(ConfigurationError, match=r"the onnx backend needs onnxruntime: pip install 'ragpool\[onnx\]' brings it"):
        runtimes.candidates("onnx", "float32", False)
    with pytest.raises(ConfigurationError, match="the onnx backend needs onnxruntime"):
        runtimes.candidates("auto", "int8", False)
    assert runtimes.candidates("auto", "float32", False) == ("torch",)


def test_auto_chooses_among_equal_answers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "missing", lambda backend: ())
    assert runtimes.candidates("auto", "float32", False) == ("torch", "onnx", "openvino")
    assert runtimes.candidates("auto", "bfloat16", False) == ("torch",)
    assert runtimes.candidates("auto", "int8", False) == ("onnx",)
    assert runtimes.candidates("auto", "float16", True) == ("torch",)


def test_int8_is_served_when_it_is_asked_for() -> None:
    needs("onnx")
    encoder = load_encoder(MODEL, "cpu", "int8")
    exact = load_encoder(MODEL, "cpu").encode(TEXTS).vectors
    assert (encoder.backend, encoder.dtype) == ("onnx", "int8")
    assert 0.95 < (encoder.encode(TEXTS).vectors * exact).sum(axis=1).min() < 0.99999


# ---- a backend that fails -------------------------------------------------------------------------------------------


class LyingBackend:
    """Starts, and gives vectors of its own invention."""

    name = "onnx"

    def __init__(self, path: Path, threads: int) -> None:
        pass

    def run(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.ones((len(features["input_ids"]), tiny_models.DIM))


def test_other_vectors_are_refused_or_passed_over(
    tiny: MakeModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    needs("onnx")
    monkeypatch.setattr(backends, "RunningOnnx", LyingBackend)
    with pytest.raises(ModelUnusable, match=r"onnx gives other vectors than torch .* in float32: they differ by"):
        load_encoder(str(tiny("bert")), "cpu", backend="onnx")
    model, cpu = load_encoder_parts(str(tiny("bert")))
    with caplog.at_level(logging.WARNING):
        assert backends.start(*model, cpu, "float32", ("onnx", "torch")).name == "torch"
    assert "the onnx backend is passed over: onnx gives other vectors" in caplog.text


def load_encoder_parts(name: str) -> Any:
    from ragpool.index.encoder import plain_tokenizer
    from ragpool.index.model_loading import load_model

    cpu = torch.device("cpu")
    loaded = load_model(name, cpu, "float32")
    return (loaded, plain_tokenizer(loaded.model)), cpu


@pytest.mark.parametrize(("name", "value"), [("query_length", 8), ("document_length", 8), ("processing_kwargs", {"text": {}})])
def test_a_model_that_cuts_its_texts_otherwise_is_left_to_the_library(tiny: MakeModel, name: str, value: object) -> None:
    from ragpool.index.encoder import plain_tokenizer

    (loaded, tokenizer), _ = load_encoder_parts(str(tiny("bert")))
    assert tokenizer is not None
    setattr(loaded.model[0], name, value)
    assert plain_tokenizer(loaded.model) is None


def test_a_damaged_export_is_made_again(tiny: MakeModel, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    needs("onnx")
    (loaded, tokenizer), _ = load_encoder_parts(str(tiny("bert")))
    path = export.exported(loaded, tokenizer, cache_dir=tmp_path)
    whole, made = path.read_bytes(), path.stat().st_mtime_ns
    assert export.exported(loaded, tokenizer, cache_dir=tmp_path).stat().st_mtime_ns == made
    path.write_bytes(whole[:1000] + b"\0" + whole[1001:])
    assert export.exported(loaded, tokenizer, cache_dir=tmp_path) == path
    assert path.stat().st_size == len(whole)
    assert path.stat().st_mtime_ns != made
    assert "is damaged: it is made again" in caplog.text
    assert not list(path.parent.glob(".export.*"))


def test_an_export_that_cannot_be_kept(tiny: MakeModel, tmp_path: Path) -> None:
    needs("onnx")
    (tmp_path / "models").write_text("in the way")
    (loaded, tokenizer), _ = load_encoder_parts(str(tiny("bert")))
    with pytest.raises(ModelUnusable, match="the exported model cannot be kept in"):
        export.exported(loaded, tokenizer, cache_dir=tmp_path)


# ---- packed linear layers -------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 70), st.booleans(), st.integers(0, 2**31))
def test_a_packed_layer_is_the_layer(rows: int, inner: int, outer: int, bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    linear, features = torch.nn.Linear(inner, outer, bias=bias), torch.randn(2, rows, inner)
    with torch.inference_mode():
        assert torch.allclose(PackedLinear(linear)(features), linear(features), atol=1e-4)
        gelu = torch.nn.functional.gelu(linear(features))
        assert torch.allclose(PackedLinear(linear, gelu=True)(features), gelu, atol=1e-4)


def test_packing_can_be_taken_back(tiny: MakeModel) -> None:
    (loaded, _), _ = load_encoder_parts(str(tiny("bert")))
    before = {name: type(module) for name, module in loaded.model.named_modules()}
    put_back = pack(loaded.model)
    assert any(isinstance(module, PackedLinear) for module in loaded.model.modules())
    put_back()
    assert {name: type(module) for name, module in loaded.model.named_modules()} == before


# ---- without padding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "unpadded"), [("bert", True), ("bert_cls", True), ("xlm_roberta", False), ("qwen3", False)]
)
def test_bert_runs_without_its_padding_and_nothing_else_does(tiny: MakeModel, architecture: str, unpadded: bool) -> None:
    encoder = load_encoder(str(tiny(architecture)), "cpu", backend="torch")
    assert isinstance(encoder._running, RunningUnpadded) == unpadded


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 48), min_size=1, max_size=9), st.integers(0, 2**31))
def test_without_padding_every_vector_is_the_models_own(tiny: MakeModel, lengths: list[int], seed: int) -> None:
    (loaded, _), _ = load_encoder_parts(str(tiny("bert")))
    longest = max(lengths)
    ids = torch.randint(5, 30, (len(lengths), longest), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    features = {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    with torch.inference_mode():
        found = RunningUnpadded(loaded.model).run(features)
        own = loaded.model(dict(features))["sentence_embedding"]
    assert torch.allclose(found, own, atol=TOLERANCE)


def test_the_numbers_of_rows_that_onednn_sees_are_few() -> None:
    """It keeps memory for each: 0.8 GB more after some hundred numbers, where nothing rounds them."""
    rows = [_rows(tokens) for tokens in range(1, PASS_TOKENS + 256 + 1)]
    assert all(tokens <= found < 1.125 * tokens + 4 for tokens, found in enumerate(rows, 1))
    assert len(set(rows)) <= 50


@pytest.mark.parametrize(("name", "value"), [("hidden_act", "relu"), ("is_decoder", True)])
def test_a_bert_of_another_kind_keeps_its_padding(tiny: MakeModel, name: str, value: object) -> None:
    (loaded, _), _ = load_encoder_parts(str(tiny("bert")))
    setattr(loaded.model[0].auto_model.config, name, value)
    with pytest.raises(NotUnpadded, match=f"its {name} is {value!r}, not"):
        RunningUnpadded(loaded.model)


def test_a_bert_of_another_release_keeps_its_padding(tiny: MakeModel) -> None:
    (loaded, _), _ = load_encoder_parts(str(tiny("bert")))
    del loaded.model[0].auto_model.embeddings.LayerNorm
    with pytest.raises(NotUnpadded, match=r"cannot be laid out anew: .*LayerNorm"):
        RunningUnpadded(loaded.model)


def test_the_layers_that_no_backend_has_a_use_for_are_freed(tiny: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    layers: list[Any] = []
    take = RunningUnpadded._take

    def watched(self: RunningUnpadded, model: Any, bert: Any) -> None:
        layers.append(weakref.ref(bert.encoder.layer[0]))
        take(self, model, bert)

    monkeypatch.setattr(RunningUnpadded, "_take", watched)
    gc.disable()
    try:
        encoder = load_encoder(str(tiny("bert")), "cpu", backend="torch")
        assert isinstance(encoder._running, RunningUnpadded)
        assert layers[0]() is None
    finally:
        gc.enable()


def test_vectors_that_differ_keep_the_padding(
    tiny: MakeModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunningUnpadded.run
    monkeypatch.setattr(RunningUnpadded, "run", lambda self, features: run(self, features).roll(1, 0))
    encoder = load_encoder(str(tiny("bert")), "cpu", backend="torch")
    assert not isinstance(encoder._running, RunningUnpadded)
    assert "runs with its padding: torch without padding gives other vectors" in caplog.text
    assert np.abs(encoder.encode(TEXTS).vectors - truth(tiny("bert"), "query", encoder.normalize)).max() < TOLERANCE


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("architecture", ["bert", "xlm_roberta", "qwen3"])
def test_cuda_gives_the_same_in_half_precision(tiny: MakeModel, architecture: str) -> None:
    encoder = load_encoder(str(tiny(architecture)), "cuda")
    assert (encoder.dtype, encoder.backend) == ("float16", "torch")
    assert np.abs(encoder.encode(TEXTS).vectors - truth(tiny(architecture), "query", encoder.normalize)).max() < 0.02
