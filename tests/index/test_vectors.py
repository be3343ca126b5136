"""bfloat16 as torch rounds it, and norms that really are bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from ragpool.index.vectors import VectorRows, VectorWriter, from_bfloat16, to_bfloat16

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
    for name in ("f32", "bf16"):
        (tmp_path / name).unlink(missing_ok=True)
    writer = VectorWriter(tmp_path, 3)
    for chunk in chunks:
        writer.append(chunk)
    for sealed in writer.writers().values():
        sealed.close()
    written = np.concatenate(chunks)
    files = (np.fromfile(tmp_path / name, dtype=np.uint8) for name in ("f32", "bf16"))
    found = VectorRows(*files, writer.count, 3)
    assert np.array_equal(found.full, written)
    assert np.array_equal(from_bfloat16(found.half), torch.from_numpy(written).bfloat16().float().numpy())
    exact, half = written.astype(np.float64), from_bfloat16(found.half).astype(np.float64)
    norms = writer.norms()
    for bound, of in ((norms.full_max, exact), (norms.half_max, half), (norms.error_max, exact - half)):
        assert np.linalg.norm(of, axis=1).max() <= bound <= np.linalg.norm(of, axis=1).max() * (1 + 1e-8)


def test_what_is_no_row_is_refused(tmp_path: Path) -> None:
    writer = VectorWriter(tmp_path, 3)
    with pytest.raises(ValueError, match="rows of 3 values"):
        writer.append(np.zeros((2, 4), dtype=np.float32))
    for wrong in (np.nan, np.inf, 3.4e38):
        with pytest.raises(ValueError, match="not finite"):
            writer.append(np.full((1, 3), wrong, dtype=np.float32))
    for sealed in writer.writers().values():
        sealed.close()
