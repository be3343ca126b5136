"""What is asked for and not built is refused before anything heavy is loaded."""

from __future__ import annotations

import pytest
from ragpool.conf.mapping import from_mapping
from ragpool.conf.settings import ConfigurationError
from ragpool.worker.loading import check_honoured


def test_a_worker_without_an_index_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no index"):
        check_honoured(from_mapping({"index": {}}, "a test"))


def test_what_is_built_passes() -> None:
    check_honoured(from_mapping({"index": {"path": "x"}, "worker": {"backend": "torch"}}, "a test"))
