"""[GPU] The backends as one thing: token tensors of a batch in, its vectors out. Threads as of `encoder`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from .runtimes import ONNX, OPENVINO, TORCH
from .tokens import padded_batches

Features = dict[str, torch.Tensor]


CPU_TOKENS_MAX = 2_048
"""A CPU gains nothing from larger batches and falls out of its caches: 31 passages/s of 250 tokens at 2,048, 22 at 16,384."""

CPU_FORWARD_TOKENS = 16
CUDA_FORWARD_TOKENS = 4_096
"""What a further forward pass costs, as tokens of padding that one would rather take along."""

TEXTS_MAX = 1_024
"""Of a pass."""


class Running(Protocol):
    """`run`: int64 (n, longest) tensors on the encoder's device to float32 (n, dim) there, as the last module gives them.

    `passes`: how texts of these lengths are best cut into forward passes: positions of each, about `budget` tokens at the most.
    """

    name: str

    def passes(self, lengths: Sequence[int], budget: int) -> Iterator[list[int]]: ...

    def run(self, features: Features) -> torch.Tensor: ...


class RunningTorch:
    """The modules of a sentence-transformers model, without what its `encode` does around them."""

    name = TORCH

    def __init__(self, model: Any, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._model = model

    def passes(self, lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
        return padded_batches(lengths, budget, TEXTS_MAX, CUDA_FORWARD_TOKENS) if self._on_cuda else _on_cpu(lengths, budget)

    def run(self, features: Features) -> torch.Tensor:
        embedding: torch.Tensor = self._model(features)["sentence_embedding"]
        return embedding.float()


class RunningOnnx:
    """onnxruntime on the CPU. Its fusion of layer norms is left out: slower than what it replaces (2.07 against 1.89 ms)."""

    name = ONNX

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # a plan for each shape, and hardly two batches have the same
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
        )
        self._inputs = [wanted.name for wanted in self._session.get_inputs()]

    def passes(self, lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
        return _on_cpu(lengths, budget)

    def run(self, features: Features) -> torch.Tensor:
        (vectors,) = self._session.run(None, {name: features[name].numpy() for name in self._inputs})
        return torch.from_numpy(vectors)


class RunningOpenvino:
    """OpenVINO on the CPU, from the same ONNX file. `dtype` is float32 or bfloat16."""

    name = OPENVINO

    def __init__(self, path: Path, threads: int, dtype: str) -> None:
        import openvino

        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
        }
        compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
        self._request = compiled.create_infer_request()
        self._output = compiled.outputs[0]
        self._inputs = [wanted.any_name for wanted in compiled.inputs]

    def passes(self, lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
        return _on_cpu(lengths, budget)

    def run(self, features: Features) -> torch.Tensor:
        results = self._request.infer({name: features[name].numpy() for name in self._inputs})
        return torch.from_numpy(np.array(results[self._output]))  # a copy: the next batch reuses its memory


def _on_cpu(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    return padded_batches(lengths, min(budget, CPU_TOKENS_MAX), TEXTS_MAX, CPU_FORWARD_TOKENS)
