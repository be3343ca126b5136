"""`rag-worker`: workers that join a pool, on this host or another."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..conf import devices
from ..conf.cores import thread_environment, usable_cores
from ..conf.loader import load
from ..conf.mapping import to_mapping
from ..conf.paths import RunPaths, backend_endpoint, run_dir
from ..conf.sentences import SentenceCommand
from ..conf.settings import ConfigurationError, Settings
from ..supervisor.aims import Aim
from ..supervisor.loop import Supervisor
from ..supervisor.process import WORKER, ChildSpec
from ..wire import progress
from ..wire.exit_codes import CONFIGURATION


@click.command("rag-worker", cls=SentenceCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ragpool")
@click.option("--config", metavar="FILE", help="TOML, or the JSON of the older system.")
@click.option(
    "--device",
    metavar="D,D...",
    help="cpu, cuda, cuda:N; several: one worker for each, or each group of index.gpus_per_worker, kept alive here.",
)
@click.option("--workers", type=int, metavar="N", help="Worker processes, spread round robin over the devices.")
@click.option("--backend", "--broker", metavar="URL", help="Where the pool takes workers [the run directory's socket].")
@click.option("--index", metavar="DIR", help="Index directory to serve.")
@click.option("--model", metavar="M", help="Where the index's model is, if not by its own name.")
@click.option("--frontend", metavar="URL", help="Frontend of a pool on this host, to find its run directory.")
@click.option("--run-dir", metavar="DIR", help="Run directory of a pool on this host.")
def main(config: str | None, **flags: object) -> None:
    """Workers that join a pool and serve until they are told to drain (SIGTERM, Ctrl-C).

    \b
    Examples:
      rag-worker --device cuda:1 --index wiki
      rag-worker --device cuda:0,cuda:1 --index /data/wiki --backend tcp://10.0.0.5:5556
    """
    sys.exit(_run(config, flags))


def _run(config: str | None, flags: dict[str, Any]) -> int:
    keys = {
        "device": "pool.devices", "workers": "pool.workers", "backend": "broker.backend", "index": "index.path",
        "model": "worker.model", "frontend": "broker.frontend", "run_dir": "pool.run_dir",
    }  # fmt: skip
    loaded = load(config, os.environ, {keys[name]: value for name, value in flags.items()})
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    settings = loaded.settings
    backend = backend_endpoint(settings, RunPaths(run_dir(settings, os.environ, os.getuid(), tempfile.gettempdir())))
    if not settings.index.path:
        raise ConfigurationError("no index: say --index DIR")
    chosen = devices.resolve(settings.pool.devices, os.environ)
    told = devices.placed(chosen, settings.index)
    count = settings.pool.workers or len(told)
    settings = replace(settings, pool=replace(settings.pool, devices=chosen, workers=count))
    threads = max(1, usable_cores() // count)
    if count == 1:
        os.environ.update({**thread_environment(threads), **os.environ})
        from .main import leave, run_worker  # numpy counts its threads when it is imported

        code = run_worker(settings, told[0], backend, -1, "", bytearray(progress.SIZE), None)
        leave(2 if code == CONFIGURATION else code)
    named = str(Path(settings.index.path).absolute())
    aim = Aim(named, folder=os.path.realpath(named))

    def make(slot: int, aim: Aim) -> ChildSpec:
        return _spec(settings, aim, told[slot % len(told)], backend, slot, threads)

    return Supervisor(
        [make(slot, aim) for slot in range(count)],
        settings=settings.supervisor,
        load_timeout_s=settings.worker.load_timeout_s,
        stopped_max_s=settings.broker.dead_after_s,
        make=make,
        aim=aim,
    ).run()


def _spec(settings: Settings, aim: Aim, device: str, backend: str, slot: int, threads: int) -> ChildSpec:
    settings = replace(settings, index=replace(settings.index, path=aim.folder or aim.index))
    args = ("--settings", json.dumps(to_mapping(settings)), "--device", device, "--backend", backend, "--slot", str(slot))
    return ChildSpec(
        WORKER,
        "ragpool.worker.main",
        (*args, "--index-version", aim.version),
        slot=slot,
        device=device,
        gpus=settings.index.gpus_per_worker if settings.index.gpu else 0,
        env=thread_environment(threads),
    )


if __name__ == "__main__":
    main()
