"""What counts as the answer of an exact search: any order of rows that float64 cannot tell apart by more than the slack."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import SLACK, Oracle

ROWS = np.array([[3, 0], [2, 0], [2, 1], [1, 0], [0, 5]], dtype=np.float32)
QUERY = np.array([[2, 0]], dtype=np.float32)


def test_the_best_rows_stand_by_score_and_number() -> None:
    assert Oracle(ROWS).best(np.concatenate([QUERY, -QUERY]), 3).tolist() == [[0, 1, 2], [4, 3, 1]]
    assert Oracle(ROWS).best(QUERY, 9).tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("found", "right"),
    [
        ([0, 1, 2], True),
        ([0, 2, 1], True),
        ([1, 0, 2], False),
        ([0, 1, 3], False),
        ([0, 1, 1], False),
        ([0, 1], False),
        ([0, 1, -1], False),
    ],
)
def test_equal_rows_may_change_places_and_others_may_not(found: list[int], right: bool) -> None:
    assert Oracle(ROWS).right(QUERY, [found], 3) == [right]


def test_the_slack_grows_with_the_query_and_the_longest_row() -> None:
    for off, right in ((0.5, True), (2.0, False)):
        rows = np.array([[1, 0], [1 - np.float32(off * SLACK * 5), 0], [0, 5]], dtype=np.float32)
        assert Oracle(rows).right(3 * QUERY, [[1]], 1) == [right]


def test_all_rows_are_found_where_fewer_are_there_than_wanted() -> None:
    assert Oracle(ROWS).right(QUERY, [[0, 1, 2, 3, 4]], 100) == [True]
