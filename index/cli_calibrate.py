"""`rag-index calibrate`: which backend and batch serve an index fastest on this machine. Loads torch only to measure."""

from __future__ import annotations

import json

import click

from . import cli_text
from .cli_base import config_option, device_option, directory_of, json_option, model_option, settings_from
from .manifest import read_manifest


@click.command("calibrate")
@click.argument("directory", metavar="DIR", required=False)
@device_option
@model_option
@click.option("--dtype", metavar="T", help="Only this dtype [float16 on CUDA, else float32].")
@click.option("--backend", metavar="B", help="Only this backend: torch, onnx or openvino [all that are installed].")
@click.option("--again", is_flag=True, help="Measure also where a result is remembered.")
@click.option("--quiet", is_flag=True, help="Do not print what was found.")
@config_option
@json_option
@click.pass_context
def calibrate_command(
    ctx: click.Context,
    /,
    directory: str | None,
    device: str,
    model: str | None,
    dtype: str | None,
    backend: str | None,
    again: bool,
    quiet: bool,
    config: str | None,
    as_json: bool,
) -> None:
    """Measure which backend and batch encode queries fastest here, and remember it for the workers of this machine.

    Only modes with equal answers compete. `rag-broker start` does this by itself, once. The result holds for the threads that
    OMP_NUM_THREADS allows, as a worker has them.

    \b
    Examples:
      rag-index calibrate wiki
      OMP_NUM_THREADS=1 rag-index calibrate wiki --device cpu --again
    """
    given: dict[str, object] = {"index.path": directory, "worker.model": model, "worker.dtype": dtype, "worker.backend": backend}
    settings = settings_from(ctx, config, given)
    manifest = read_manifest(directory_of(settings))
    from .calibrate import calibrate

    worker = settings.worker
    found = calibrate(worker.model or manifest.model.name, device, worker.dtype, worker.backend, again=again)
    for reason in found.passed_over:
        click.echo(f"passed over: {reason}", err=True)
    if not found.kept:
        click.echo("warning: the result cannot be kept in the cache folder", err=True)
    if quiet:
        return
    choice = found.choice
    if as_json:
        told = {"backend": choice.backend, "max_batch": choice.max_batch, "tokens_per_s": dict(choice.measured)}
        told |= {"engine": choice.engine, "search_ms": dict(choice.searched)}
        click.echo(json.dumps({**told, "measured_now": found.fresh, "setup": dict(found.setup)}, indent=2))
        return
    rates = {f"{name} queries at once": f"{rate:,.0f} tokens/s" for name, rate in choice.measured.items()}
    rates |= {f"{name} searched for at once": f"{took:.2f} ms" for name, took in choice.searched.items()}
    chosen = {"backend": choice.backend, "max_batch": choice.max_batch, "measured": "now" if found.fresh else "before"}
    if choice.engine:
        chosen["engine"] = choice.engine
    click.echo(cli_text.table({**chosen, **rates}))
