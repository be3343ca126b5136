"""[GPU] Attention over texts of different lengths without a place for padding: they lie side by side in the rows of a grid.

The tokens of a pass come and go as one long row. For attention alone they are taken into rows of `width` cells, several texts
in a row where they fit, and a text sees itself alone. So copies, products and softmax are in proportion to the tokens, not to the
longest text. One gather each way does what padding, transposing and cutting off would.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

WIDTH_STEP = 16
"""The width is a multiple of it: torch's softmax takes three times as long over rows that do not fill its vector registers."""


class Grid:
    """Where attention finds the tokens of one pass. Made once a pass, for all layers; holds the memory they use in turn.

    Cells without a token repeat the first one, see each other alone, and are left behind.
    """

    def __init__(self, lengths: Sequence[int], heads: int, size: int) -> None:
        """`lengths` of the texts in tokens, at least 1 each, `heads` of `size` values each."""
        width = -(-max(lengths) // WIDTH_STEP) * WIDTH_STEP
        starts, rows = side_by_side(lengths, width)
        tokens = np.arange(sum(lengths))
        self.places = torch.from_numpy(tokens - np.repeat(np.cumsum(lengths) - lengths, lengths))
        """Of each token in its text, int64 (tokens,)."""
        cells = np.repeat(starts, lengths) + self.places.numpy()
        self._shape = rows, heads, width, size
        self._bias = torch.from_numpy(_seen(cells, lengths, rows, width))
        self._taken = torch.from_numpy(_taken(cells, tokens, rows, heads, width))
        self._left = torch.from_numpy(_left(cells, heads, width))
        self._parts = torch.empty(3, rows * heads, width, size)
        self._scores = torch.empty(rows * heads, width, width)

    def attend(self, projected: torch.Tensor, context: torch.Tensor) -> None:
        """`projected` float32 (at least tokens, 3 * heads * size): query (scaled), key and value; fills in `context` (tokens,
        heads * size)."""
        rows, heads, width, size = self._shape
        torch.index_select(projected.view(-1, size), 0, self._taken, out=self._parts.view(-1, size))
        query, key, value = self._parts
        torch.bmm(query, key.transpose(1, 2), out=self._scores)
        self._scores.view(rows, heads, width, width).add_(self._bias)
        torch.softmax(self._scores, -1, out=self._scores)
        torch.bmm(self._scores, value, out=query)
        torch.index_select(query.view(-1, size), 0, self._left, out=context.view(-1, size))


def side_by_side(lengths: Sequence[int], width: int) -> tuple[NDArray[np.int64], int]:
    """The first cell of each text, and how many rows of `width` cells they take: each lies in the first row with room for it."""
    room: list[int] = []
    starts = []
    for length in lengths:
        row = next((number for number, free in enumerate(room) if free >= length), len(room))
        if row == len(room):
            room.append(width)
        starts.append((row + 1) * width - room[row])
        room[row] -= length
    return np.array(starts), len(room)


def _seen(cells: NDArray[np.int64], lengths: Sequence[int], rows: int, width: int) -> NDArray[np.float32]:
    """What is added to the scores, (rows, 1, width, width): 0 where both cells are of one text, else -inf."""
    text = np.full(rows * width, -1)
    text[cells] = np.repeat(np.arange(len(lengths)), lengths)
    across = text.reshape(rows, 1, 1, width)
    seen: NDArray[np.float32] = np.where(across == across.transpose(0, 1, 3, 2), np.float32(0), np.float32(-np.inf))
    return seen


def _taken(cells: NDArray[np.int64], tokens: NDArray[np.int64], rows: int, heads: int, width: int) -> NDArray[np.int64]:
    """For each of (3, rows, heads, width) the row of projected values, seen as (tokens * 3 * heads, size)."""
    of_cell = np.zeros(rows * width, np.int64)
    of_cell[cells] = tokens
    part, head = np.arange(3)[:, None, None, None], np.arange(heads)[:, None]
    return (of_cell.reshape(rows, 1, width) * (3 * heads) + part * heads + head).ravel()


def _left(cells: NDArray[np.int64], heads: int, width: int) -> NDArray[np.int64]:
    """For each of (tokens, heads) the row of the context, seen as (rows * heads * width, size)."""
    row, column = cells // width, cells % width
    return ((row * heads * width + column)[:, None] + np.arange(heads) * width).ravel()
