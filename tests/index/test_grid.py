"""Attention over texts that lie side by side is that of each text alone."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ragpool.index.grid import WIDTH_STEP, Grid, side_by_side

LENGTHS = st.lists(st.integers(1, 70), min_size=1, max_size=12)
HEADS, SIZE = 3, 4


def of_each_alone(projected: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """The definition, in float64: one text after the other, one head after the other."""
    found, first = [], 0
    for length in lengths:
        query, key, value = projected[first : first + length].double().view(length, 3, HEADS, SIZE).permute(1, 2, 0, 3)
        context = torch.softmax(query @ key.transpose(1, 2), -1) @ value
        found.append(context.transpose(0, 1).reshape(length, HEADS * SIZE))
        first += length
    return torch.cat(found)


@settings(deadline=None)
@given(LENGTHS, st.integers(0, 2**31), st.integers(0, 5))
def test_every_text_sees_itself_alone(lengths: list[int], seed: int, spare: int) -> None:
    tokens = sum(lengths)
    projected = torch.randn(tokens + spare, 3 * HEADS * SIZE, generator=torch.Generator().manual_seed(seed))
    context = torch.full((tokens, HEADS * SIZE), torch.nan)
    grid = Grid(lengths, HEADS, SIZE)
    for _ in range(2):  # its memory is used again by the next layer
        grid.attend(projected, context)
        assert torch.allclose(context.double(), of_each_alone(projected, lengths), atol=1e-5)


@given(LENGTHS)
def test_places_count_from_the_start_of_each_text(lengths: list[int]) -> None:
    assert Grid(lengths, HEADS, SIZE).places.tolist() == [place for length in lengths for place in range(length)]


@given(LENGTHS, st.integers(70, 200))
def test_texts_lie_in_one_row_each_and_never_on_one_another(lengths: list[int], width: int) -> None:
    starts, rows = side_by_side(lengths, width)
    cells = [cell for start, length in zip(starts.tolist(), lengths) for cell in range(start, start + length)]
    assert len(set(cells)) == len(cells)
    assert max(cells) < rows * width
    assert all(start // width == (start + length - 1) // width for start, length in zip(starts.tolist(), lengths))


def test_short_texts_share_a_row() -> None:
    starts, rows = side_by_side([20, 12, 9, 8, 7], 2 * WIDTH_STEP)
    assert (starts.tolist(), rows) == ([0, 20, 32, 41, 49], 2)
    assert np.array_equal(side_by_side([5], WIDTH_STEP)[0], [0])
