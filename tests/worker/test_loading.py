"""What is asked for and not built is refused before anything heavy is loaded."""

from __future__ import annotations

import pytest
from ragpool.conf.mapping import from_mapping
from ragpool.conf.settings import ConfigurationError
from ragpool.worker.loading import check_honoured


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"index": {}}, "no index"),
    ],
)
def test_a_setting_that_cannot_be_honoured_is_named(more: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        check_honoured(from_mapping({"index": {"path": "x"}, **more}, "a test"))


def test_what_is_built_passes() -> None:
    check_honoured(from_mapping({"index": {"path": "x"}, "worker": {"backend": "torch"}}, "a test"))
