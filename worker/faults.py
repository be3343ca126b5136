"""What an exception on the device thread means, told apart by name and words: this file never imports torch."""

from __future__ import annotations

OUT_OF_MEMORY = "out of memory"
CUDA = "cuda"
DEFECT = "defect"

_MEMORY_NAMES = frozenset({"OutOfMemoryError", "MemoryError"})
_CUDA_NAMES = frozenset({"AcceleratorError", "CudaError", "DeferredCudaCallError"})
_CUDA_WORDS = ("cuda error", "cublas", "cudnn", "device-side assert", "nccl")


def classify(error: BaseException) -> str:
    """`OUT_OF_MEMORY`: a smaller batch may go through. `CUDA`: sticky, only a fresh process helps. `DEFECT`: anything else."""
    names = {cls.__name__ for cls in type(error).__mro__}
    words = str(error).lower()
    if names & _MEMORY_NAMES or "out of memory" in words:
        return OUT_OF_MEMORY
    if names & _CUDA_NAMES or any(word in words for word in _CUDA_WORDS):
        return CUDA
    return DEFECT
