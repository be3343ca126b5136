"""A worker without a device, one thread: it registers, beats, and answers at once, or after `--batch-ms` for each message.

`--answer null`: the same few bytes to all; `echo`: the body that came; `search`: `--hits` for each query. Never an error.
"""

from __future__ import annotations

import argparse
import os
import time

import zmq
from ragpool.wire import bodies, codec
from ragpool.wire.messages import Heartbeat, Register, Reply, Request

BEAT_S = 1.0
BURST = 100


class NullWorker:
    def __init__(self, options: argparse.Namespace) -> None:
        self._name = options.name
        self._max_batch = options.max_batch
        self._items_max = options.items_max
        self._batch_s = options.batch_ms / 1e3
        self._answer = options.answer
        self._received = 0
        self._parent = os.getppid()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.set_hwm(0)
        self._socket.linger = 0
        self._socket.connect(options.backend)
        _, self._header, self._body = codec.encode_item(Reply(bytes(16), cost=8, index_version="v1"))
        hit = codec.pack({"id": "p1", "title": "", "text": "x" * options.letters, "metadata": {}})
        self._hit = bodies.RawHits([1.0] * options.hits, [hit] * options.hits)

    def serve(self) -> None:
        """Until whoever started it is gone."""
        self._register()
        beat_at = time.monotonic()
        while os.getppid() == self._parent:
            now = time.monotonic()
            if now >= beat_at:
                beat_at = now + BEAT_S
                self._socket.send_multipart(codec.encode(Heartbeat("ready", self._received)))
            if self._socket.poll(max(1, int((beat_at - now) * 1e3))):
                self._drain()

    def _drain(self) -> None:
        for _ in range(BURST):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if frames[1] == b"REQUEST":
                self._run(frames)
                if self._batch_s:
                    return
            elif frames[1] == b"UNKNOWN":
                self._register()

    def _run(self, frames: list[bytes]) -> None:
        count = (len(frames) - 2) // 3
        self._received += count
        if self._batch_s:
            time.sleep(self._batch_s)
        if self._answer == "search":
            self._socket.send_multipart(codec.encode_many([self._found(r) for r in codec.decode(frames, (b"REQUEST",))]))
            return
        frames[1] = b"REPLY"
        frames[3::3] = [self._header] * count
        if self._answer == "null":
            frames[4::3] = [self._body] * count
        self._socket.send_multipart(frames)

    def _found(self, request: object) -> Reply:
        if not isinstance(request, Request):
            raise RuntimeError(f"the broker sent {request}")
        return Reply(request.id, cost=8, index_version="v1", body=bodies.results_body([self._hit] * request.items))

    def _register(self) -> None:
        self._received = 0
        me = Register(
            self._name,
            "ready",
            "localhost",
            os.getpid(),
            device="null",
            dtype="float32",
            max_batch=self._max_batch,
            items_max=self._items_max,
        )
        self._socket.send_multipart(codec.encode(me))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend")
    parser.add_argument("name")
    parser.add_argument("--max-batch", type=int, default=1, help="items that it announces")
    parser.add_argument("--items-max", type=int, default=4096, help="requests a message [4096]")
    parser.add_argument("--batch-ms", type=float, default=0.0, help="time that each message takes")
    parser.add_argument("--answer", choices=("null", "echo", "search"), default="null")
    parser.add_argument("--hits", type=int, default=1, help="passages for each query [1]")
    parser.add_argument("--letters", type=int, default=9, help="of each passage [9]")
    NullWorker(parser.parse_args()).serve()


if __name__ == "__main__":
    main()
