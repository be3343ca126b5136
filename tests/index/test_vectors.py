"""bfloat16 as torch rounds it, and norms that really are bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from ragpool.index.errors import ModelUnusable
from ragpool.index.vectors import (
    HALF_DTYPE,
    REFINE_DTYPE,
    EncodedRows,
    VectorRows,
    from_bfloat16,
    let_go,
    taken,
    to_bfloat16,
    write_rounded,
)

LARGEST = 2.0**100
rows = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-LARGEST, LARGEST, width=32)
)


@given(rows)
def test_it_rounds_as_torch_does(values: np.ndarray) -> None:
    ours = from_bfloat16(to_bfloat16(values))
    assert np.array_equal(ours, torch.from_numpy(values).bfloat16().float().numpy())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows.map(lambda values: np.resize(values, (len(values), 3))), min_size=1, max_size=3))
def test_rows_come_back_and_norms_are_bounds(tmp_path: Path, chunks: list[np.ndarray]) -> None:
    written = np.concatenate(chunks)
    written.tofile(tmp_path / "f32")
    encoded = EncodedRows(tmp_path / "f32", len(written), 3)
    norms = write_rounded(encoded, tmp_path / "bf16", HALF_DTYPE)
    files = (np.fromfile(tmp_path / name, dtype=np.uint8) for name in ("f32", "bf16"))
    found = VectorRows(*files, len(written), 3)
    assert np.array_equal(encoded.map(), written)
    assert np.array_equal(found.full, written)
    assert np.array_equal(from_bfloat16(found.half), torch.from_numpy(written).bfloat16().float().numpy())
    exact, half = written.astype(np.float64), from_bfloat16(found.half).astype(np.float64)
    for bound, of in ((norms.full_max, exact), (norms.half_max, half), (norms.error_max, exact - half)):
        assert np.linalg.norm(of, axis=1).max() <= bound <= np.linalg.norm(of, axis=1).max() * (1 + 1e-8)


def test_many_blocks_are_all_the_rows(tmp_path: Path) -> None:
    written = np.random.default_rng(1).standard_normal((9_000, 256), dtype=np.float32)
    written.tofile(tmp_path / "f32")
    blocks = list(EncodedRows(tmp_path / "f32", 9_000, 256).blocks())
    assert [len(block) for block in blocks] == [1_024] * 8 + [808]
    assert np.array_equal(np.concatenate(blocks), written)


@pytest.mark.parametrize(("dtype", "value"), [(HALF_DTYPE, 3.4e38), (REFINE_DTYPE, 65_520.0)])
def test_values_that_half_precision_cannot_hold_are_refused(tmp_path: Path, dtype: str, value: float) -> None:
    np.full((1, 3), value, dtype=np.float32).tofile(tmp_path / "f32")
    with pytest.raises(ModelUnusable, match=f"values that {dtype} cannot hold"):
        write_rounded(EncodedRows(tmp_path / "f32", 1, 3), tmp_path / "half", dtype)


def test_float16_rows_are_those_of_numpy_and_their_norms_bounds(tmp_path: Path) -> None:
    written = np.random.default_rng(1).standard_normal((500, 24), dtype=np.float32)
    written.tofile(tmp_path / "f32")
    norms = write_rounded(EncodedRows(tmp_path / "f32", 500, 24), tmp_path / "f16", REFINE_DTYPE)
    found = np.fromfile(tmp_path / "f16", dtype="<f2").reshape(500, 24)
    assert np.array_equal(found, written.astype(np.float16))
    exact, half = written.astype(np.float64), found.astype(np.float64)
    assert norms.dtype == REFINE_DTYPE
    for bound, of in ((norms.full_max, exact), (norms.half_max, half), (norms.error_max, exact - half)):
        assert np.linalg.norm(of, axis=1).max() <= bound <= np.linalg.norm(of, axis=1).max() * (1 + 1e-8)


def mapped_kib(path: Path) -> int:
    """What is resident of the file at `path` in this process's own mappings."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    return sum(
        next(int(field.split()[1]) for field in lines if field.startswith("Rss:")) for line in lines if line.endswith(str(path))
    )


def test_pages_of_mapped_rows_are_let_go(tmp_path: Path) -> None:
    path = tmp_path / "f32"
    written = np.random.default_rng(1).standard_normal((20_000, 64), dtype=np.float32)
    written.tofile(path)
    found = EncodedRows(path, *written.shape).map()
    assert np.array_equal(found, written)
    assert mapped_kib(path) > 4_000
    let_go(found[100:])
    assert mapped_kib(path) == 0
    positions = np.arange(0, 20_000, 7)
    assert np.array_equal(taken(found, positions), written[::7])
    assert mapped_kib(path) == 0
    let_go(written)
    assert np.array_equal(taken(written, positions), written[::7])
