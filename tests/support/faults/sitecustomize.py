"""Faults on demand, for workers of a test's pool: put this folder on PYTHONPATH and ask for one.

In the text of a query, whichever worker runs it:

    fault:crash      the process ends with SIGSEGV while it runs the batch
    fault:hang       the device thread never comes back, the heart goes on beating
    fault:slow:2.5   the batch takes that many seconds longer

or, where RAGPOOL_FAULTS names a folder, as a file whose content is the same words without "fault:". The worker of slot N takes
`run-N.*` with its next batch (crash, hang, slow; gil:15 sleeps without giving the interpreter back; memory: no more memory than
now, and every batch wants some) and `load-N.*` when it loads (crash, exit:3, slow:60): one file is one fault. While `answer-N` is
there its answers go out twice, late:3 seconds, or as garbage. Each fault that is committed is told in the folder's `log`.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.util
import mmap
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = os.environ.get("RAGPOOL_FAULTS", "")
SLOT = next((after for before, after in zip(sys.orig_argv, sys.orig_argv[1:]) if before == "--slot"), "")
NEEDS_BYTES = 256 * 1024 * 1024
HEADER, BODY = 3, 4
"""Places of the frames of a message's first item."""

starved = False


def commit(fault: str) -> None:
    """Do what the words after "fault:" say."""
    kind, _, argument = fault.partition(":")
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "exit":
        os._exit(int(argument))
    elif kind == "hang":
        time.sleep(3600)
    elif kind == "slow":
        time.sleep(float(argument))
    elif kind == "gil":
        ctypes.PyDLL(None).usleep(int(float(argument) * 1e6))
    elif kind == "memory":
        starve()


def starve() -> None:
    """From now on this process gets no more memory than it has."""
    global starved
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * mmap.PAGESIZE, resource.RLIM_INFINITY))
    starved = True


def take(when: str) -> None:
    """Commit the first fault that waits for this slot, if there is one."""
    for file in sorted(Path(FOLDER).glob(f"{when}-{SLOT}.*")) if FOLDER and SLOT else ():
        try:
            fault = file.read_text()
            file.unlink()
        except OSError:  # another process took it
            continue
        tell(f"{when} {fault}")
        commit(fault)
        return


def tell(what: str) -> None:
    with open(os.path.join(FOLDER, "log"), "a") as log:
        log.write(f"{time.time():.6f} {os.getpid()} {SLOT} {what}\n")


def in_pipeline(module: Any) -> None:
    prepare = module.Pipeline.prepare

    def faulty_prepare(self: Any, jobs: Any) -> Any:
        for job in jobs:
            for text in job.work.texts:
                if text.startswith("fault:"):
                    commit(text.split()[0].partition(":")[2])
        if any(job.request.id != bytes(16) for job in jobs):  # the warm-up query is part of loading
            take("run")
        if starved:
            bytearray(NEEDS_BYTES)
        return prepare(self, jobs)

    module.Pipeline.prepare = faulty_prepare


def in_loading(module: Any) -> None:
    load = module.load

    def faulty_load(*args: Any) -> Any:
        take("load")
        return load(*args)

    module.load = faulty_load


def in_loop(module: Any) -> None:
    """Answers on their way out; `late` ones wait here and leave with a later turn."""
    send, turn = module.Loop._send, module.Loop._turn
    waiting: list[tuple[float, list[bytes]]] = []

    def faulty_send(self: Any, frames: list[bytes]) -> None:
        kind, _, argument = _answers().partition(":") if frames[1] == b"REPLY" else ("", "", "")
        if kind:
            tell(f"answer {kind}")
        if kind == "late":
            waiting.append((time.monotonic() + float(argument), frames))
        elif kind == "garbage":
            send(self, garbage(frames))
        else:
            send(self, frames)
            if kind == "twice":
                send(self, frames)

    def faulty_turn(self: Any) -> None:
        turn(self)
        while waiting and waiting[0][0] <= time.monotonic():
            send(self, waiting.pop(0)[1])

    module.Loop._send, module.Loop._turn = faulty_send, faulty_turn


def garbage(frames: list[bytes]) -> list[bytes]:
    """One of four: no message at all, no kind, a header or a body that is none."""
    noise = os.urandom(40)
    broken = list(frames)
    place = noise[0] % 4
    if place == 0:
        return [noise]
    broken[(1, HEADER, BODY)[place - 1]] = b"\xc1" + noise
    return broken


def _answers() -> str:
    try:
        return Path(FOLDER, f"answer-{SLOT}").read_text() if FOLDER and SLOT else ""
    except OSError:
        return ""


PATCHES: dict[str, Callable[[Any], None]] = {
    "ragpool.worker.pipeline": in_pipeline,
    "ragpool.worker.loading": in_loading,
    "ragpool.worker.loop": in_loop,
}


class FaultyLoader(importlib.abc.Loader):
    """Loads a module, then lets faults into it."""

    def __init__(self, loader: Any, patch: Callable[[Any], None]) -> None:
        self._loader = loader
        self._patch = patch

    def create_module(self, spec: Any) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._loader.exec_module(module)
        self._patch(module)


class FaultFinder(importlib.abc.MetaPathFinder):
    def __init__(self) -> None:
        self._looking = False

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if self._looking or name not in PATCHES:
            return None
        self._looking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking = False
        if spec is not None:
            spec.loader = FaultyLoader(spec.loader, PATCHES[name])
        return spec


sys.meta_path.insert(0, FaultFinder())
