"""[GPU] Linear layers of a float32 model on a CPU, by oneDNN with weights laid out for it once.

torch multiplies float32 by MKL, which on processors of another maker than its own keeps to AVX2: half of what AVX-512 gives (104
against 245 Gflop/s on one Zen 5 core, 112 x 384 by 384 x 1536). oneDNN looks at what the processor can do. The sums are the same
but for their order. Everything here can be taken back: a model that does not bear it runs as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_EXACT_GELU = ("GELUActivation", "GELU")


class PackedLinear(torch.nn.Module):
    """`torch.nn.Linear` for inference: (..., in) -> (..., out), float32, with GELU behind it if `gelu`."""

    def __init__(self, linear: torch.nn.Linear, gelu: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self._bias = None if linear.bias is None else linear.bias.detach()
        self._activation, self._algorithm = ("gelu", "none") if gelu else ("none", "")

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            features, self._weight, self._bias, self._activation, [], self._algorithm
        )
        return product


def pack(model: torch.nn.Module) -> Callable[[], None]:
    """Replaces the linear layers of `model` in place; what it returns puts them back. Without oneDNN nothing is replaced."""
    replaced: list[tuple[torch.nn.Module, str, Any]] = []

    def put_back() -> None:
        for parent, name, module in reversed(replaced):
            setattr(parent, name, module)

    if torch._C._has_mkldnn:
        try:
            with torch.inference_mode():
                for parent in list(model.modules()):
                    _pack_children(parent, replaced)
        except (AttributeError, NotImplementedError, RuntimeError):  # a torch without these operators
            put_back()
            replaced.clear()
    return put_back


def _pack_children(parent: torch.nn.Module, replaced: list[tuple[torch.nn.Module, str, Any]]) -> None:
    gelu = _gelu_behind(parent)
    for name, child in list(parent.named_children()):
        if type(child) is torch.nn.Linear and child.weight.dtype == torch.float32:
            replaced.append((parent, name, child))
            setattr(parent, name, PackedLinear(child, gelu and name == "dense"))
    if gelu and isinstance(parent.dense, PackedLinear):
        replaced.append((parent, "intermediate_act_fn", parent.intermediate_act_fn))
        parent.intermediate_act_fn = torch.nn.Identity()


def _gelu_behind(parent: Any) -> bool:
    """Whether `parent` is the middle of a BERT-like layer: `dense`, then the exact GELU."""
    activation = getattr(parent, "intermediate_act_fn", None)
    exact = type(activation).__name__ in _EXACT_GELU and getattr(activation, "approximate", "none") == "none"
    return exact and type(getattr(parent, "dense", None)) is torch.nn.Linear
