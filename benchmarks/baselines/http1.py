"""A lean HTTP/1.1 client for one asyncio loop: connections are kept alive, one request at a time on each.

It reads what the servers here send (a length or chunks) and negotiates nothing, so that the load generator stays cheap.
"""

from __future__ import annotations

import asyncio


class HttpFailed(Exception):
    """No answer of status 200 came."""


def take_reply(buffer: bytes | bytearray) -> tuple[int, bytes] | None:
    """(status, body) of the reply that `buffer` holds; None while more of it is to come."""
    head_end = buffer.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    head = bytes(buffer[:head_end]).lower()
    status = int(head[9:12])
    start = head_end + 4
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        return (status, bytes(buffer[start : start + length])) if len(buffer) >= start + length else None
    if b"transfer-encoding: chunked" in head:
        body = _chunks(buffer, start)
        return None if body is None else (status, body)
    return status, b""


def _chunks(buffer: bytes | bytearray, at: int) -> bytes | None:
    parts: list[bytes] = []
    while True:
        line_end = buffer.find(b"\r\n", at)
        if line_end < 0:
            return None
        size = int(bytes(buffer[at:line_end]).split(b";")[0], 16)
        at = line_end + 2
        if len(buffer) < at + size + 2:
            return None
        if size == 0:
            return b"".join(parts)
        parts.append(bytes(buffer[at : at + size]))
        at += size + 2


class Connection(asyncio.Protocol):
    """One connection; `ask` while nothing is under way on it."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._waiting: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None
        self.open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        reply = take_reply(self._buffer)
        if reply is not None:
            self._buffer.clear()
            waiting, self._waiting = self._waiting, None
            if waiting is not None and not waiting.done():
                waiting.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(HttpFailed(f"the connection was lost: {exc or 'closed'}"))

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        self._waiting = asyncio.get_running_loop().create_future()
        if self._transport is not None:
            self._transport.write(request)
        return self._waiting

    def close(self) -> None:
        self.open = False
        if self._transport is not None:
            self._transport.abort()


class HttpClient:
    """As many connections as requests were ever under way at once."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: ".encode()
        )
        self._free: list[Connection] = []

    async def post(self, body: bytes) -> bytes:
        """The body of the answer. Raises `HttpFailed` for any status but 200, or where the connection breaks."""
        connection = self._idle() or await self._connect()
        try:
            status, answer = await connection.ask(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
        except BaseException:
            connection.close()
            raise
        if connection.open:
            self._free.append(connection)
        if status != 200:
            raise HttpFailed(f"status {status}: {answer[:200]!r}")
        return answer

    def _idle(self) -> Connection | None:
        """The connection used last of those that the server has not closed."""
        while self._free:
            connection = self._free.pop()
            if connection.open:
                return connection
        return None

    def close(self) -> None:
        for connection in self._free:
            connection.close()
        self._free.clear()

    async def _connect(self) -> Connection:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self._port)
        except OSError as error:
            raise HttpFailed(f"no connection: {error}") from None
        return connection
