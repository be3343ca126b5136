"""One tree: every error has a code of its own, travels by it, and survives pickling."""

from __future__ import annotations

import pickle

import pytest
from ragpool.wire.errors import ERRORS, Overloaded, RagpoolError, RemoteFailure, error_from_code


@pytest.mark.parametrize("code", ERRORS)
def test_an_error_comes_back_from_its_code_and_from_a_pickle(code: str) -> None:
    error = error_from_code(code, "so it is", "ab", 1.5)
    assert type(error) is ERRORS[code]
    assert (error.code, error.message, str(error), error.request_id) == (code, "so it is", "so it is", "ab")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.__dict__) == (type(error), str(error), error.__dict__)


def test_codes_are_told_apart_and_all_are_of_one_tree() -> None:
    assert len(set(ERRORS.values())) == len(ERRORS)
    assert all(issubclass(cls, RagpoolError) for cls in ERRORS.values())


def test_busy_says_when_to_come_back() -> None:
    error = error_from_code("overloaded", "full", retry_after=2.5)
    assert isinstance(error, Overloaded)
    assert (error.retry_after, error.retryable) == (2.5, True)


def test_an_unknown_code_is_a_remote_failure_that_says_so() -> None:
    error = error_from_code("from_the_future", "so it is")
    assert type(error) is RemoteFailure
    assert str(error) == "from_the_future: so it is"
