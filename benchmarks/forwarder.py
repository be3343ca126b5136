"""The least that can stand between clients and workers: two ROUTERs, up to 100 messages a poll, workers in turn.

It knows no deadline, no load, no death and no fairness: what it costs is what pyzmq costs. It serves until its parent is gone.
"""

from __future__ import annotations

import os
import sys

import zmq

BURST = 100


def serve(frontend: str, backend: str) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    front, back = _router(context, frontend), _router(context, backend)
    poller = zmq.Poller()
    poller.register(front, zmq.POLLIN)
    poller.register(back, zmq.POLLIN)
    routes: dict[bytes, bytes] = {}
    workers: list[bytes] = []
    turn, parent = 0, os.getppid()
    while os.getppid() == parent:
        ready = dict(poller.poll(500))
        if back in ready:
            for _ in range(BURST):
                try:
                    frames = back.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                if frames[2] == b"REPLY":
                    frames[0] = routes.pop(frames[3])
                    front.send_multipart(frames, zmq.NOBLOCK)
                elif frames[2] == b"REGISTER":
                    workers.append(frames[0])
        if front in ready and workers:
            for _ in range(BURST):
                try:
                    frames = front.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                turn = (turn + 1) % len(workers)
                routes[frames[3]] = frames[0]
                frames[0] = workers[turn]
                back.send_multipart(frames, zmq.NOBLOCK)


def _router(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.ROUTER)
    socket.set_hwm(0)
    socket.linger = 0
    socket.bind(address)
    return socket


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
