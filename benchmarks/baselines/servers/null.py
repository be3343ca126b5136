"""A server that does nothing: the same five passages to every request, at once. It shows what the load generator itself costs."""

from __future__ import annotations

import asyncio
import json
import sys

HITS = 5
LETTERS = 270


def reply() -> bytes:
    hits = [{"id": f"p{n}", "title": "", "text": "x" * LETTERS, "metadata": {}, "score": 0.5} for n in range(HITS)]
    body = json.dumps({"hits": hits}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


class Null(asyncio.Protocol):
    """Every arrival is taken for one whole request, which it is on loopback for requests of some hundred bytes."""

    _reply = reply()
    _transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._reply)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Null, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
