"""Faults on demand, for workers of a test's pool: put this folder on PYTHONPATH and ask for one in the text of a query.

fault:crash      the process ends with SIGSEGV while it runs the batch
fault:hang       the device thread never comes back, the heart goes on beating
fault:slow:2.5   the batch takes that many seconds longer
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import signal
import sys
import time
from types import ModuleType
from typing import Any

TARGET = "ragpool.worker.pipeline"


def commit(fault: str) -> None:
    """Do what the words after "fault:" say."""
    kind, _, argument = fault.partition(":")
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "hang":
        time.sleep(3600)
    elif kind == "slow":
        time.sleep(float(argument))


class FaultyLoader(importlib.abc.Loader):
    """Loads the pipeline, then lets it look for faults in what it is given."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: Any) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._loader.exec_module(module)
        prepare = module.Pipeline.prepare

        def faulty_prepare(self: Any, jobs: Any) -> Any:
            for job in jobs:
                for text in job.work.texts:
                    if text.startswith("fault:"):
                        commit(text.split()[0].partition(":")[2])
            return prepare(self, jobs)

        module.Pipeline.prepare = faulty_prepare


class FaultFinder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            spec.loader = FaultyLoader(spec.loader)
        return spec


sys.meta_path.insert(0, FaultFinder())
