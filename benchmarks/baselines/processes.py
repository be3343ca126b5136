"""Servers as processes: started, waited for by a real answer, watched in /proc, and ended with everything that they started.

This process adopts whatever its descendants orphan (PR_SET_CHILD_SUBREAPER), so a server's tree is all that descends from us
while it runs, daemons included; nothing of it is left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_HERTZ = os.sysconf("SC_CLK_TCK")
END_S = 15.0
"""How long a server may take to end by itself."""


class DidNotStart(Exception):
    """Why a server gives no answers."""


def adopt_orphans() -> None:
    """From now on orphaned descendants become our children."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---- what /proc says -----------------------------------------------------------------------------------------------


def _parents() -> dict[int, int]:
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    return found


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, zombies included."""
    parents = _parents()
    found, fresh = [], [pid]
    while fresh:
        fresh = [child for child, parent in parents.items() if parent in fresh]
        found += fresh
    return found


def cpu_s(pid: int) -> float:
    """Processor seconds of all threads of `pid` so far, and of the children that it has reaped, in steps of the kernel's clock
    (10 ms). Raises OSError for one that is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _HERTZ


def pss_kib(pid: int) -> int:
    """Proportional set size: what several processes map is divided among them. Raises OSError for one that is gone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def cpu_s_of_all(pids: Sequence[int]) -> float:
    """`cpu_s` of those of the processes that are there."""
    return _sum(cpu_s, pids)


def pss_mb_of_all(pids: Sequence[int]) -> float:
    """`pss_kib` of those of the processes that are there, in megabytes (10^6 bytes)."""
    return _sum(pss_kib, pids) * 1024 / 1e6


def _sum(reading: Callable[[int], float], pids: Sequence[int]) -> float:
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += reading(pid)
    return total


# ---- a server ------------------------------------------------------------------------------------------------------


class Server:
    """A command and all that descends from it. One at a time: the tree is everything below this process."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.folder = folder

    def tree(self) -> list[int]:
        return descendants(os.getpid())

    def cpu_s(self) -> float:
        return cpu_s_of_all(self.tree())

    def last_words(self) -> str:
        """The last line it wrote that says something."""
        lines = [line.strip() for line in (self.folder / "log").read_text(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "it said nothing")[:200]


@contextlib.contextmanager
def started(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Server]:
    """`command` in a folder of its own, which `BASELINE_TEMP` names. Ended with its whole tree. Raises `DidNotStart`."""
    with tempfile.TemporaryDirectory(prefix="bl-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with (folder / "log").open("wb") as log:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env={**os.environ, **environment, "BASELINE_TEMP": name},
                )
            except OSError as error:
                raise DidNotStart(f"{command[0]} cannot be run: {error.strerror}") from None
        try:
            yield Server(process, folder)
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the root, and SIGKILL to whatever descends from us after `END_S`."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
    give_up = time.monotonic() + END_S
    while (left := _alive(descendants(os.getpid()))) and time.monotonic() < give_up:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    process.wait()
    if left:
        raise RuntimeError(f"the processes {left} cannot be ended")


def _alive(pids: Sequence[int]) -> list[int]:
    """Those that run; zombies of ours are buried."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]
