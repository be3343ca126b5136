"""A connection that can be cut and healed: a TCP proxy on loopback, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

CHUNK_BYTES = 1 << 16


class Proxy:
    """Forwards `port` to `target_port`. `cut`: every connection is closed, and no new one lives; `swallow`: they stay, but no
    byte gets through; `heal`: as if nothing had been."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = True
        self._flows = asyncio.Event()
        self._flows.set()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait(10)

    @property
    def connections(self) -> int:
        return len(self._writers) // 2

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._cut)

    def swallow(self) -> None:
        self._loop.call_soon_threadsafe(self._flows.clear)

    def heal(self) -> None:
        self._loop.call_soon_threadsafe(self._heal)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    # ---- the thread ----------------------------------------------------------------------------------------------------

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port: int = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        for writer in self._writers:
            writer.transport.abort()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(self._loop), return_exceptions=True))
        self._loop.close()

    def _cut(self) -> None:
        self._open = False
        for writer in self._writers:
            writer.transport.abort()

    def _heal(self) -> None:
        self._open = True
        self._flows.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        try:
            beyond_reader, beyond_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, beyond_writer}
        self._writers |= both
        try:
            await asyncio.wait(
                [
                    asyncio.ensure_future(self._pump(reader, beyond_writer)),
                    asyncio.ensure_future(self._pump(beyond_reader, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            self._writers -= both
            for end in both:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
