"""The error tree, as a caller and as the wire see it."""

from __future__ import annotations

import pickle

import pytest
from ragpool.wire import errors
from ragpool.wire.errors import ERRORS, Overloaded, RagpoolError, RemoteFailure, error_from_code


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_a_code_names_its_error_and_survives_pickling(code: str) -> None:
    error = error_from_code(code, "why", "abc", 0.5)
    assert (type(error), error.code, str(error), error.request_id) == (ERRORS[code], code, "why", "abc")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), "why", vars(error))


def test_busy_says_when_to_come_back() -> None:
    error = error_from_code("overloaded", "busy", None, 1.5)
    assert isinstance(error, Overloaded)
    assert (error.retry_after, error.retryable) == (1.5, True)


def test_a_code_from_the_future_is_a_failure_that_names_it() -> None:
    error = error_from_code("gone_fishing", "back at five")
    assert isinstance(error, RemoteFailure)
    assert str(error) == "gone_fishing: back at five"


def test_every_error_of_the_tree_stands_in_the_picture_at_its_head() -> None:
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, RagpoolError):
            assert name in (errors.__doc__ or "")
