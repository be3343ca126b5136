"""One worker process: `python -m ragpool.worker.main --settings JSON --device cpu --backend URL`. What `rag-worker` runs too."""

from __future__ import annotations

import json
import logging
import mmap
import os
import secrets
import socket
import sys

import click

from ..conf.mapping import from_mapping
from ..conf.settings import Settings
from ..wire import exit_codes, progress
from ..wire.codec import ITEMS_MAX
from ..wire.messages import Register
from .loading import loader
from .loop import Loop
from .session import LOADING


def run_worker(
    settings: Settings,
    device: str,
    backend: str,
    slot: int,
    incarnation: str,
    buffer: progress.SharedBuffer,
    ready_fd: int | None,
) -> int:
    """One worker until it drains or breaks; its exit code. The sentence for the operator goes to stderr."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    info = Register(
        incarnation=incarnation or secrets.token_hex(8),
        state=LOADING,
        host=socket.gethostname(),
        pid=os.getpid(),
        slot=slot,
        device=device,
        items_max=ITEMS_MAX,
    )

    def on_loaded() -> None:
        if ready_fd is not None:
            os.write(ready_fd, b"1")

    loop = Loop(backend, info, settings.broker.heartbeat_interval_s, buffer, loader(settings, device, info), on_loaded)
    ended = loop.run()
    if ended.sentence:
        print(ended.sentence, file=sys.stderr)
    return ended.code


def leave(code: int) -> None:
    """End now: the device thread may be inside a library that does not let an interpreter finish."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@click.command()
@click.option("--settings", "settings_json", required=True)
@click.option("--device", required=True)
@click.option("--backend", required=True)
@click.option("--slot", type=int, default=-1)
@click.option("--incarnation", default="")
@click.option("--progress-fd", type=int)
@click.option("--ready-fd", type=int)
def main(
    settings_json: str, device: str, backend: str, slot: int, incarnation: str, progress_fd: int | None, ready_fd: int | None
) -> None:
    """A worker under a supervisor."""
    settings = from_mapping(json.loads(settings_json), "the supervisor")
    buffer: progress.SharedBuffer = bytearray(progress.SIZE) if progress_fd is None else mmap.mmap(progress_fd, progress.SIZE)
    try:
        code = run_worker(settings, device, backend, slot, incarnation, buffer, ready_fd)
    except Exception:
        logging.getLogger(__name__).exception("the worker failed")
        code = exit_codes.FAILURE
    leave(code)


if __name__ == "__main__":
    main()
