"""`rag-broker`: the pool and what an operator asks of it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from ..conf import render
from ..conf.loader import Loaded, load
from ..conf.paths import RunPaths
from ..conf.sentences import SentenceGroup
from ..supervisor.rundir import pool_pid, wait_until_released
from ..supervisor.state import read_state
from ..wire.errors import RagpoolError
from . import admin, cli_doctor, cli_render, cli_rollout
from .cli_start import calibrated, paths_of, start

STOP_GRACE_S = 20.0
"""Beyond the drain itself: how long the processes of a pool may take to leave."""

config_option = click.option("--config", metavar="FILE", help="TOML, or the JSON of the older system.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
frontend_option = click.option("--frontend", metavar="URL", help="Address of the pool's frontend [tcp://127.0.0.1:5555].")
run_dir_option = click.option("--run-dir", metavar="DIR", help="Run directory of the pool [named after the frontend's port].")


class BrokerGroup(SentenceGroup):
    failures = (RagpoolError,)


@click.group("rag-broker", cls=BrokerGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ragpool")
@config_option
@click.pass_context
def main(ctx: click.Context, config: str | None) -> None:
    """A pool of retrieval workers behind one address.

    \b
    Examples:
      rag-broker start                          the built-in demo index, on what this machine has
      rag-broker start --index wiki --device cuda:0,cuda:1
      rag-broker status
      rag-broker stop
    """
    ctx.obj = config


@main.command("start")
@config_option
@click.option("--index", metavar="DIR", help="Index directory to serve.")
@click.option("--demo", is_flag=True, help="Serve the built-in demo index.")
@click.option("--device", metavar="D,D...", help="cpu, cuda, cuda:N, or auto: every CUDA device, else cpu.")
@click.option("--workers", type=int, metavar="N", help="Worker processes, spread round robin over the devices.")
@click.option("--model", metavar="M", help="Where the index's model is, if not by its own name.")
@frontend_option
@click.option("--backend", metavar="URL", help="Also listen here for workers of other hosts.")
@run_dir_option
@click.option("--insecure", is_flag=True, default=None, help="Allow addresses that other machines can reach.")
def start_command(config: str | None, demo: bool, **flags: object) -> None:
    """Run the pool in the foreground.

    Prints one line beginning `ready` once a real query came back through the frontend. SIGTERM and Ctrl-C drain, a second one
    ends at once.

    \b
    Examples:
      rag-broker start --demo --workers 2
      rag-broker start --index wiki --device cuda:0,cuda:1 --frontend tcp://127.0.0.1:6000
      RAGPOOL_BROKER__QUEUE_MAX=10000 rag-broker start --config pool.toml
    """
    sys.exit(start(_load(config, flags), demo=demo))


@main.command()
@config_option
@frontend_option
@run_dir_option
@json_option
def status(config: str | None, as_json: bool, **flags: object) -> None:
    """What the pool does, and why a worker died; also while the broker is down.

    \b
    Examples:
      rag-broker status
      rag-broker status --json --frontend tcp://127.0.0.1:6000
    """
    paths = paths_of(_load(config, flags).settings)
    found = pool_status(paths)
    click.echo(json.dumps(found, indent=2) if as_json else cli_render.status_text(found))


@main.command()
@config_option
@frontend_option
@run_dir_option
def stop(config: str | None, **flags: object) -> None:
    """Drain the pool and end it; returns once every process is gone.

    \b
    Example:
      rag-broker stop --frontend tcp://127.0.0.1:6000
    """
    settings = _load(config, flags).settings
    paths = paths_of(settings)
    pid = _running(paths)
    if admin.ask(paths.admin, "stop") is None and pid:
        os.kill(pid, signal.SIGTERM)
    if not wait_until_released(paths, settings.broker.drain_timeout_s + STOP_GRACE_S):
        raise RagpoolError(f"the pool (pid {pid}) still drains; it was told to stop, and will")
    click.echo("stopped")


@main.command()
@click.argument("worker", required=False, default="")
@config_option
@frontend_option
@run_dir_option
def drain(worker: str, config: str | None, **flags: object) -> None:
    """Take no new work: WORKER finishes what it holds and leaves; without one the whole pool finishes, and stays until `stop`.

    \b
    Examples:
      rag-broker drain
      rag-broker drain 1          the worker of slot 1
      rag-broker drain 7f58       by the beginning of its id
    """
    _tell(_load(config, flags), "drain", worker)
    click.echo(f"draining {worker or 'the pool'}")


@main.command()
@click.argument("count", metavar="N", type=click.IntRange(min=0))
@config_option
@frontend_option
@run_dir_option
def scale(count: int, config: str | None, **flags: object) -> None:
    """Have N workers: more are started, surplus ones drain.

    \b
    Example:
      rag-broker scale 4
    """
    _tell(_load(config, flags), "scale", str(count))
    click.echo(f"scaling to {count} workers")


@main.command()
@click.argument("worker", required=False, default="")
@click.option("--all", "everyone", is_flag=True, help="All workers, one at a time; `status` says how far it is.")
@config_option
@frontend_option
@run_dir_option
def restart(worker: str, everyone: bool, config: str | None, **flags: object) -> None:
    """Drain WORKER and start it again, also one whose slot was given up; or all of them, each once the one before is back.

    \b
    Examples:
      rag-broker restart 0        the worker of slot 0
      rag-broker restart 7f58     by the beginning of its id
      rag-broker restart --all    no request fails; each new one loads beside the old one where memory allows
    """
    if everyone == bool(worker):
        raise click.UsageError("say which WORKER, or --all")
    _tell(_load(config, flags), "restart", worker)
    click.echo(f"restarting {worker or 'all workers, one at a time'}")


@main.command("reload")
@config_option
@click.option("--index", metavar="DIR", default="", help="Another index directory [the same as now, if it was built again].")
@click.option("--no-wait", is_flag=True, help="Return at once; `status` says how far it is.")
@frontend_option
@run_dir_option
def reload_command(config: str | None, index: str, no_wait: bool, **flags: object) -> None:
    """Serve a new version of the index, or another one, with no failed request.

    Worker by worker a new process loads and checks it, beside the old one where memory allows; only then the old one leaves. If
    the first cannot load it, the old version serves on and the reason is printed.

    \b
    Examples:
      rag-index build corpus.jsonl --out wiki && rag-broker reload
      rag-broker reload --index /data/wiki-2026-11
    """
    loaded = _load(config, flags)
    answer = _tell(loaded, "reload", os.path.abspath(index) if index else "")
    if no_wait:
        click.echo("reloading; `rag-broker status` says how far it is")
        return
    click.echo(f"reloaded: {cli_rollout.wait(lambda: pool_status(paths_of(loaded.settings)), str(answer.get('ticket')))}")


@main.command("config")
@config_option
@frontend_option
@run_dir_option
@json_option
def config_command(config: str | None, as_json: bool, **flags: object) -> None:
    """What is in force, and where each value came from: defaults < file < RAGPOOL_SECTION__KEY < flags.

    \b
    Examples:
      rag-broker config
      rag-broker config --config pool.toml --json
    """
    loaded = _load(config, flags)
    chosen = calibrated(loaded.settings)
    if not as_json:
        click.echo(render.to_toml(loaded), nl=False)
        for device, choice in chosen.items():
            engine = f", engine {choice.engine}" if choice.engine else ""
            click.echo(f"# calibrated on {device}: backend {choice.backend}, max_batch {choice.max_batch}{engine}")
        return
    document = render.to_json(loaded)
    for name in ("backend", "max_batch"):
        document["worker"][name]["calibrated"] = {device: getattr(choice, name) for device, choice in chosen.items()}
    document["index"]["engine"]["calibrated"] = {device: choice.engine for device, choice in chosen.items() if choice.engine}
    click.echo(json.dumps(document, indent=2))


@main.command()
@config_option
@click.option("--index", metavar="DIR", help="Index directory to look at.")
@click.option("--device", metavar="D,D...", help="Devices that are wanted.")
@frontend_option
@run_dir_option
@json_option
def doctor(config: str | None, as_json: bool, **flags: object) -> None:
    """Versions, which faiss, devices, memory, ports, permissions: what will go wrong, before it does.

    \b
    Examples:
      rag-broker doctor
      rag-broker doctor --index wiki --device cuda:0
    """
    settings = _load(config, flags).settings
    found = list(cli_doctor.examine(settings, paths_of(settings)))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        click.echo("\n".join(f"{finding.level:8} {finding.subject:22} {finding.told}" for finding in found))
    if any(finding.level == cli_doctor.BAD for finding in found):
        sys.exit(1)


def pool_status(paths: RunPaths) -> dict[str, Any]:
    """The broker's own answer, or while it is down what the parent wrote. Raises `RagpoolError` without a pool."""
    _running(paths)
    found = admin.ask(paths.admin, "status")
    if found is not None:
        return found
    return cli_render.without_broker(read_state(paths.state_file) or {})


def _tell(loaded: Loaded, command: str, argument: str) -> dict[str, Any]:
    """One command to the broker, and its answer; raises `RagpoolError` where it is refused, or nobody hears it."""
    paths = paths_of(loaded.settings)
    _running(paths)
    answer = admin.ask(paths.admin, command, argument)
    if answer is None:
        raise RagpoolError("the broker is down; its supervisor is bringing it back: try again in a moment")
    return answer


def _running(paths: RunPaths) -> int:
    pid = pool_pid(paths)
    if pid is None:
        raise RagpoolError(f"no pool runs here (its run directory would be {paths.root}); start one with `rag-broker start`")
    return pid


_FLAGS: Mapping[str, str] = {
    "index": "index.path",
    "device": "pool.devices",
    "workers": "pool.workers",
    "run_dir": "pool.run_dir",
    "model": "worker.model",
    "frontend": "broker.frontend",
    "backend": "broker.backend",
    "insecure": "broker.insecure",
}


def _load(config: str | None, flags: Mapping[str, object]) -> Loaded:
    config = config or click.get_current_context().find_object(str)
    loaded = load(config, os.environ, {_FLAGS[name]: value for name, value in flags.items()})
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    return loaded


if __name__ == "__main__":
    main()
