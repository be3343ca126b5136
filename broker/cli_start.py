"""`rag-broker start`: settings become specs of processes, checked for what can be known before any of them starts."""

from __future__ import annotations

import json
import math
import os
import signal
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..conf import devices
from ..conf.cores import thread_environment, usable_cores
from ..conf.errors import shown
from ..conf.loader import Loaded as LoadedSettings
from ..conf.loader import idle_on_cpu
from ..conf.mapping import to_mapping
from ..conf.paths import RunPaths, connect_address, run_dir
from ..conf.settings import ConfigurationError, Settings
from ..index import calibration, runtimes
from ..index.demo import demo_index_dir
from ..index.engine import AUTO, idle_effort
from ..index.index_types import COMPACT
from ..index.manifest import FLAT, MANIFEST_NAME, Manifest, read_manifest
from ..supervisor import rundir
from ..supervisor.aims import Aim
from ..supervisor.loop import Supervisor
from ..supervisor.process import BROKER, PROBE, WORKER, ChildSpec, spawn
from .sockets import check_exposure

CALIBRATION_MAX_S = 60.0
"""Loading, a first export and measuring together; on a machine that takes longer the pool starts with defaults."""

_POLL_S = 0.5
_UNCALIBRATED = "the encoder is not calibrated; the pool serves with defaults"


def paths_of(settings: Settings) -> RunPaths:
    """The run directory that these settings name; raises `ConfigurationError`."""
    return RunPaths(run_dir(settings, os.environ, os.getuid(), tempfile.gettempdir()))


def start(loaded: LoadedSettings, *, demo: bool) -> int:
    """The pool in the foreground; its exit code. Raises `ConfigurationError` before anything runs."""
    check_exposure(loaded.settings)
    chosen = devices.resolve(loaded.settings.pool.devices, os.environ)
    for warning in idle_on_cpu(chosen, loaded.sources):
        if warning not in loaded.warnings:
            click.echo(f"warning: {warning}", err=True)
    paths = paths_of(loaded.settings)
    devices.groups(chosen, loaded.settings.index)  # before an index is built for them
    with rundir.claim(paths):
        settings, version, told = _with_index(loaded, demo, chosen)
        settings = resolved(settings, chosen)
        for device in settings.pool.devices:
            runtimes.candidates(settings.worker.backend, settings.worker.dtype, device != devices.CPU)
        _calibrate(settings)
        count = settings.pool.workers
        summary = f"{count} worker{'s' if count != 1 else ''} on {', '.join(dict.fromkeys(chosen))}, {told}"
        return _supervisor(settings, version, paths, summary).run()


# ---- settings ------------------------------------------------------------------------------------------------------


def resolved(settings: Settings, chosen: tuple[str, ...]) -> Settings:
    """With everything that "auto" and 0 stand for, so that all processes mean the same. Raises `ConfigurationError` where the
    devices cannot be divided among the workers."""
    count = devices.worker_count(settings.pool.workers, devices.placed(chosen, settings.index), usable_cores())
    return replace(
        settings,
        pool=replace(settings.pool, devices=chosen, workers=count),
        worker=replace(settings.worker, dtype=devices.resolve_dtype(settings.worker.dtype, chosen)),
    )


def _with_index(loaded: LoadedSettings, demo: bool, chosen: tuple[str, ...]) -> tuple[Settings, str, str]:
    """The index to serve, built first where it is missing and can be; its version; and what to call it."""
    settings, index = loaded.settings, loaded.settings.index
    if index.corpus and not index.path and not demo:
        raise ConfigurationError(f"where is the index of {index.corpus} to be? index.path (rag_index_path) names no folder")
    if demo or not index.path:
        folder = demo_index_dir()
        name = "the built-in demo index"
        if not (folder / MANIFEST_NAME).exists():
            click.echo(f"building the demo index in {folder}, once", err=True)
            _build("--demo", "--out", str(folder), *_how(settings, chosen))
        if not demo:
            click.echo(f"no index given (--index DIR): serving {name}, the reference texts of Python", err=True)
    else:
        folder, name = Path(index.path), index.path
        if index.corpus and not (folder / MANIFEST_NAME).exists():
            click.echo(f"there is no index {folder} yet: building it from {index.corpus}", err=True)
            _build(index.corpus, "--out", str(folder), *what_to_build(settings, chosen), *_how(settings, chosen))
    manifest = read_manifest(folder)
    for warning in (*of_another_type(loaded, name, manifest.type), *idle_effort(index.effort, manifest, name)):
        click.echo(f"warning: {warning}", err=True)
    settings = replace(settings, index=replace(index, path=str(folder.absolute())))
    return settings, manifest.version, f"{name} with {manifest.count:,} passages"


def of_another_type(loaded: LoadedSettings, name: str, type_: str) -> tuple[str, ...]:
    """A warning where an index that was there before is not of the type that somebody set."""
    wanted = loaded.settings.index.type
    if wanted in (AUTO, type_):
        return ()
    source = loaded.sources["index.type"]
    return (f"index.type = {shown(wanted)} ({source}) is for builds: {name} is of type {type_}, and is served as that",)


def what_to_build(settings: Settings, chosen: tuple[str, ...]) -> tuple[str, ...]:
    """The type of a missing index, and what will search it: on CUDA devices `auto` must take none that only a CPU searches."""
    index = settings.index
    on_cuda = index.gpu and any(device != devices.CPU for device in chosen)
    size = ("--bytes-per-vector", str(index.bytes_per_vector)) if index.type in (AUTO, COMPACT) else ()
    return ("--type", index.type, *size, "--for", "cuda" if on_cuda else "cpu")


def _how(settings: Settings, chosen: tuple[str, ...]) -> tuple[str, ...]:
    """The model, how it computes, and where: one process for each device of the pool, on the CPU all of it."""
    on = ",".join(dict.fromkeys(device for device in chosen if device != devices.CPU)) or devices.CPU
    dtype = devices.resolve_dtype(settings.worker.dtype, chosen)
    return ("--device", on, "--dtype", dtype, "--backend", settings.worker.backend, *_model_of(settings))


def _model_of(settings: Settings) -> tuple[str, ...]:
    return ("--model", settings.worker.model) if settings.worker.model else ()


def calibrated(settings: Settings) -> dict[str, calibration.Choice]:
    """What calibration chose earlier for the workers on each device, where there is an index and something was measured."""
    folder = Path(settings.index.path) if settings.index.path else demo_index_dir()
    try:
        chosen = devices.resolve(settings.pool.devices, os.environ)
        manifest = read_manifest(folder)
    except ConfigurationError:
        return {}
    settings = resolved(settings, chosen)
    found = {device: calibration.recall(calibration.of_pool(manifest, settings, device)) for device in dict.fromkeys(chosen)}
    return {device: choice for device, choice in found.items() if choice is not None}


def _calibrate(settings: Settings) -> None:
    """Have measured, before any worker starts, what is not remembered of how they encode and search fastest. Failing costs the
    defaults."""
    for device, wanted in unmeasured(settings, read_manifest(settings.index.path)):
        click.echo(f"calibrating the encoder on {device}, once", err=True)
        wish = ("--device", device, "--dtype", settings.worker.dtype, "--backend", settings.worker.backend)
        args = ("calibrate", settings.index.path, "--quiet", *wish, *_model_of(settings))
        spec = ChildSpec("calibrate", "ragpool.index.cli", args, env=thread_environment(wanted["threads"]))
        if _run(spec, CALIBRATION_MAX_S):
            known = calibration.recall(wanted) is not None
            told = "the engines could not be measured; exact serves" if known else _UNCALIBRATED
            click.echo(f"warning: {told}", err=True)


def unmeasured(settings: Settings, manifest: Manifest) -> list[tuple[str, dict[str, Any]]]:
    """The first device of the workers with each setup for which nothing is remembered, and that setup. Like GPUs have one."""
    found: list[tuple[str, dict[str, Any]]] = []
    for device in dict.fromkeys(devices.placed(settings.pool.devices, settings.index)):
        wanted = calibration.of_pool(manifest, settings, device)
        if _leaves_a_choice(settings, manifest, device) and all(wanted != other for _, other in found):
            found += [(device, wanted)] if calibration.recall(wanted) is None else []
    return found


def _leaves_a_choice(settings: Settings, manifest: Manifest, device: str) -> bool:
    """Whether what is measured would decide anything: about the encoder, or the engine of a flat index on a CUDA device."""
    if not settings.worker.max_batch or settings.worker.backend == calibration.AUTO:
        return True
    index = settings.index
    on_cuda = device != devices.CPU and index.gpu and devices.seen(os.environ) > 0
    return on_cuda and index.engine == AUTO and index.gpus_per_worker == 1 and manifest.type == FLAT


def _build(*args: str) -> None:
    """Build an index in a child that ends with us; raises `ConfigurationError` when it does not succeed."""
    if _run(ChildSpec("build", "ragpool.index.cli", ("build", "--quiet", *args))):
        raise ConfigurationError("the index could not be built")


def _run(spec: ChildSpec, most_s: float = math.inf) -> int:
    """A child to its end, which is ours too; its return code. It is ended after `most_s` seconds."""
    death_fd, life_fd = os.pipe()
    child = spawn(spec, death_fd=death_fd)
    waited_s = 0.0
    try:
        while (code := child.reap()) is None:
            child.wait(_POLL_S)
            waited_s += _POLL_S
            if waited_s > most_s:
                child.send(signal.SIGKILL)
                child.wait(5.0)
                return -signal.SIGKILL
    except BaseException:
        child.send(signal.SIGKILL)
        child.wait(5.0)
        raise
    finally:
        os.close(death_fd)
        os.close(life_fd)
        if child.reap() is not None:
            child.close()
    return code


# ---- processes -----------------------------------------------------------------------------------------------------


def _supervisor(settings: Settings, version: str, paths: RunPaths, summary: str) -> Supervisor:
    as_json = json.dumps(to_mapping(settings))
    aim = Aim(settings.index.path, version, folder=os.path.realpath(settings.index.path))

    def make(slot: int, aim: Aim) -> ChildSpec:
        return worker_spec(settings, aim, paths.backend, slot)

    return Supervisor(
        [make(slot, aim) for slot in range(settings.pool.workers)],
        settings=settings.supervisor,
        broker=ChildSpec(BROKER, "ragpool.broker.main", ("--settings", as_json, "--run-dir", str(paths.root))),
        probe=ChildSpec(PROBE, "ragpool.client.probe", (connect_address(settings.broker.frontend),)),
        paths=paths,
        drain_timeout_s=settings.broker.drain_timeout_s,
        load_timeout_s=settings.worker.load_timeout_s,
        stopped_max_s=settings.broker.dead_after_s,
        on_ready=lambda frontend: print(f"ready {frontend} ({summary})", flush=True),
        make=make,
        aim=aim,
    )


def worker_spec(settings: Settings, aim: Aim, backend: str, slot: int) -> ChildSpec:
    """The worker of `slot`, serving what it is to: devices in turn, and its share of the cores."""
    settings = replace(settings, index=replace(settings.index, path=aim.folder or aim.index))
    told = devices.placed(settings.pool.devices, settings.index)
    device = told[slot % len(told)]
    threads = max(1, usable_cores() // max(1, settings.pool.workers))
    return ChildSpec(
        WORKER,
        "ragpool.worker.main",
        (
            "--settings",
            json.dumps(to_mapping(settings)),
            "--device",
            device,
            "--backend",
            backend,
            "--slot",
            str(slot),
            "--index-version",
            aim.version,
        ),
        slot=slot,
        device=device,
        gpus=settings.index.gpus_per_worker if settings.index.gpu else 0,
        env=thread_environment(threads),
    )
