"""One worker process: `python -m ragpool.worker.main --settings JSON --device cpu --backend URL`. What `rag-worker` runs too."""

from __future__ import annotations

import json
import logging
import mmap
import os
import secrets
import socket
import sys
from typing import NoReturn

import click

from ..conf.cores import keep_to_share
from ..conf.mapping import from_mapping
from ..conf.settings import Settings
from ..wire import exit_codes, progress
from ..wire.codec import ITEMS_MAX, decode_datagram
from ..wire.errors import ProtocolError, VersionMismatch
from ..wire.messages import TO_SUCCESSOR, Gone, Register
from ..wire.schema import ENDS_MAX
from .loading import loader
from .loop import Loop
from .owner import Loaded
from .session import LOADING

ENDS_MAX_BYTES = 256 * 1024


def run_worker(
    settings: Settings,
    device: str,
    backend: str,
    slot: int,
    incarnation: str,
    buffer: progress.SharedBuffer,
    ready_fd: int | None,
    index_version: str = "",
) -> int:
    """One worker until it drains or breaks; its exit code. The sentence for the operator goes to stderr. `ready_fd`: the line to
    the supervisor, which tells there how those before us ended, and hears there that we have loaded, and which version.
    `index_version`: the one that is wanted; "": whichever the index names now."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    info = Register(
        incarnation=incarnation or secrets.token_hex(8),
        state=LOADING,
        host=socket.gethostname(),
        pid=os.getpid(),
        slot=slot,
        device=device,
        items_max=ITEMS_MAX,
        previous=ends_before(ready_fd) if ready_fd is not None else (),
    )

    whatever_is_needed = loader(settings, device, info, index_version, progress.ProgressWriter(buffer))

    def load() -> Loaded:
        loaded = whatever_is_needed()
        if device == "cpu" and slot >= 0:  # not while it loads: the one that it is to replace may serve on these cores
            keep_to_share(slot, settings.pool.workers)
        return loaded

    def on_loaded(loaded: Register) -> None:
        if ready_fd is not None:
            os.write(ready_fd, loaded.index_version.encode())

    loop = Loop(backend, info, settings.broker.heartbeat_interval_s, buffer, load, on_loaded)
    ended = loop.run()
    if ended.sentence:
        say(ended.sentence)
    return ended.code


def ends_before(ready_fd: int) -> tuple[Gone, ...]:
    """What the supervisor has to tell of those before us in this slot."""
    found: list[Gone] = []
    with socket.socket(fileno=os.dup(ready_fd)) as line:
        while len(found) < ENDS_MAX:
            try:
                record = decode_datagram(line.recv(ENDS_MAX_BYTES, socket.MSG_DONTWAIT), TO_SUCCESSOR)
            except (OSError, ProtocolError, VersionMismatch):
                break
            if isinstance(record, Gone):
                found.append(record)
    return tuple(found)


def say(sentence: str) -> None:
    """To the log; a disk that is full costs the sentence, not the exit code."""
    try:
        print(sentence, file=sys.stderr, flush=True)
    except OSError:
        pass


def leave(code: int) -> NoReturn:
    """End now: the device thread may be inside a library that does not let an interpreter finish."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass  # a full disk
    os._exit(code)


@click.command()
@click.option("--settings", "settings_json", required=True)
@click.option("--device", required=True)
@click.option("--backend", required=True)
@click.option("--slot", type=int, default=-1)
@click.option("--incarnation", default="")
@click.option("--progress-fd", type=int)
@click.option("--ready-fd", type=int)
@click.option("--index-version", default="")
def main(
    settings_json: str,
    device: str,
    backend: str,
    slot: int,
    incarnation: str,
    progress_fd: int | None,
    ready_fd: int | None,
    index_version: str,
) -> None:
    """A worker under a supervisor."""
    settings = from_mapping(json.loads(settings_json), "the supervisor")
    buffer: progress.SharedBuffer = bytearray(progress.SIZE) if progress_fd is None else mmap.mmap(progress_fd, progress.SIZE)
    try:
        code = run_worker(settings, device, backend, slot, incarnation, buffer, ready_fd, index_version)
    except Exception:
        logging.getLogger(__name__).exception("the worker failed")
        code = exit_codes.FAILURE
    leave(code)


if __name__ == "__main__":
    main()
