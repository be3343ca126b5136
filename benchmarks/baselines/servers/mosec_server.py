"""mosec: its Rust front batches, `workers` processes of Python answer."""

from __future__ import annotations

import sys
from typing import Any

import mosec

from .work import BATCH_WAIT_S, Given, load

PATH = "/inference"
CAPACITY = 4096
TIMEOUT_MS = 60_000


class Search(mosec.Worker):
    def __init__(self) -> None:
        super().__init__()
        self._answer = load(Given.from_environment())

    def forward(self, data: list[dict[str, Any]]) -> list[bytes]:
        return self._answer([request["query"] for request in data])

    def serialize(self, data: bytes) -> bytes:
        return data


def main() -> None:
    given = Given.from_environment()
    options = {"port": given.port, "address": "127.0.0.1", "capacity": CAPACITY, "timeout": TIMEOUT_MS, "log-level": "error"}
    sys.argv[1:] = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    server = mosec.Server()
    server.append_worker(Search, num=given.workers, max_batch_size=given.batch, max_wait_time=round(BATCH_WAIT_S * 1e3))
    server.run()


if __name__ == "__main__":
    main()
