"""Ray Serve: `workers` replicas, each with `serve.batch`, behind Ray's HTTP proxy. A cluster of its own, ended with it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import ray
from fastapi import Response
from ray import serve
from starlette.requests import Request

from .work import BATCH_WAIT_S, Given, load

PATH = "/"
ONGOING_MAX = 4096
OBJECT_STORE_BYTES = 80 * 1024 * 1024


def deployment(given: Given) -> serve.Application:
    @serve.deployment(
        num_replicas=given.workers, max_ongoing_requests=ONGOING_MAX, ray_actor_options={"num_cpus": 0.1}, max_queued_requests=-1
    )
    class Search:
        def __init__(self) -> None:
            self._answer = load(given)
            self._thread = ThreadPoolExecutor(1)

        @serve.batch(max_batch_size=given.batch, batch_wait_timeout_s=BATCH_WAIT_S)
        async def batch(self, queries: list[str]) -> list[bytes]:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, queries)

        async def __call__(self, request: Request) -> Response:
            return Response(await self.batch((await request.json())["query"]), media_type="application/json")

    return Search.bind()


def main() -> None:
    given = Given.from_environment()
    ended = threading.Event()
    ray.init(
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        _temp_dir=os.environ["BASELINE_TEMP"],
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    serve.start(http_options={"host": "127.0.0.1", "port": given.port})
    serve.run(deployment(given))
    while not ended.wait(1.0):
        pass
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
