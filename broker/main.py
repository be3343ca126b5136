"""The broker process, as the supervisor starts it: `python -m ragpool.broker.main --settings JSON --run-dir DIR`."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import click
import zmq

from ..conf.mapping import from_mapping
from ..conf.paths import RunPaths
from ..conf.settings import ConfigurationError, Settings
from ..wire import exit_codes
from ..wire.messages import Limits
from . import sockets
from .admission import Bounds
from .core import Core
from .core_settings import CoreSettings
from .liveness import Patience
from .server import Server
from .status import StatusReport


def core_settings(settings: Settings) -> CoreSettings:
    """What the core needs of the settings, for one incarnation."""
    broker, limits = settings.broker, settings.limits
    return CoreSettings(
        epoch=secrets.token_hex(8),
        server=version("ragpool"),
        bounds=Bounds(
            limits=Limits(limits.frame_max_bytes, limits.queries_max, limits.query_max_bytes, limits.top_k_max),
            queue_max=broker.queue_max,
            queue_max_bytes=broker.queue_max_bytes,
            window=max(1, broker.queue_max // 4),
        ),
        patience=Patience(broker.suspect_after_s, broker.dead_after_s, settings.worker.load_timeout_s),
        default_timeout_ms=round(broker.default_timeout_s * 1e3),
        default_top_k=broker.default_top_k,
        mixed_dtypes=settings.pool.mixed_dtypes,
    )


@click.command()
@click.option("--settings", "settings_json", required=True)
@click.option("--run-dir", required=True, type=click.Path(path_type=Path))
@click.option("--channel-fd", type=int)
def main(settings_json: str, run_dir: Path, channel_fd: int | None) -> None:
    """One broker, until SIGTERM or until the parent is gone."""
    settings = from_mapping(json.loads(settings_json), "the supervisor")
    paths = RunPaths(run_dir)
    channel = socket.socket(fileno=channel_fd) if channel_fd is not None else None
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        bound = sockets.bind(context, settings, paths)
    except ConfigurationError as error:
        with contextlib.suppress(OSError):  # a full disk costs the sentence, not the exit code
            print(error, file=sys.stderr, flush=True)
        os._exit(exit_codes.CONFIGURATION)
    server = Server(
        Core(replace(core_settings(settings), has_parent=channel is not None), time.monotonic()),
        bound,
        StatusReport(paths.state_file),
        channel,
    )
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    server.serve(settings.broker.frontend, settings.broker.backend or paths.backend)
    bound.close()
    context.term()


if __name__ == "__main__":
    main()
