"""What the processes of a build report of their errors, and what becomes of it where they were started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from ragpool.conf.settings import ConfigurationError
from ragpool.index import encode_main
from ragpool.index.encoders import EncoderProcess
from ragpool.index.errors import DeviceFull


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConfigurationError("no such model"), ConfigurationError("no such model")),
        (DeviceFull("no room on cuda:1 now"), DeviceFull("no room on cuda:1 now")),
        (OSError(28, "No space left on device"), ConfigurationError("the rows cannot be written: No space left on device")),
    ],
)
def test_an_error_that_a_process_can_tell_is_the_same_where_it_was_started(
    monkeypatch: pytest.MonkeyPatch, error: Exception, told: Exception
) -> None:
    def answers() -> Iterator[dict[str, Any]]:
        raise error
        yield {}

    monkeypatch.setattr(encode_main, "answers", answers)
    process = object.__new__(EncoderProcess)  # its pipe, without a process behind it
    process.report_fd, report_fd = os.pipe()
    process._torn = b""
    encode_main.main(report_fd)
    try:
        with pytest.raises(type(told), match=f"^{told}$"):
            process.reports()
    finally:
        os.close(process.report_fd)
