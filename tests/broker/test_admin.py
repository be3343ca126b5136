"""An operator's question to the broker, as far as it is refused before it is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from ragpool.broker import admin
from ragpool.conf.errors import ConfigurationError


def test_a_name_that_is_not_utf_8_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^'/no\\udcffpe' is not text in UTF-8$"):
        admin.ask(f"ipc://{tmp_path}/nobody", "reload", "/no\udcffpe")
