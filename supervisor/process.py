"""One child process: started by exec, watched through its pidfd, told apart by its incarnation. Decides nothing.

Children are started from the main thread only: the parent-death signal fires when the *thread* that started them ends.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..wire import progress
from .logs import Log
from .watch import Look

WORKER = "worker"
BROKER = "broker"
PROBE = "probe"

INCARNATION_BYTES = 8


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run: a module by name, with its arguments. `env` is added to the parent's environment.

    A worker also gets `--incarnation HEX --progress-fd N --ready-fd N`, the broker `--channel-fd N`, other kinds nothing. The
    ready descriptor is a SOCK_SEQPACKET: what the parent had to tell waits there, a word back says that the worker has loaded,
    and which version of the index.
    """

    kind: str
    module: str
    args: tuple[str, ...] = ()
    slot: int = -1
    device: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 0
    """CUDA devices that its index stands on: its own and the following. 0: none, or it is on a CPU."""
    lane: int = 0
    """0 or 1: two processes that stand beside each other in one slot write to different logs."""

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.slot}" if self.slot >= 0 else self.kind

    @property
    def devices(self) -> tuple[str, ...]:
        """All CUDA devices that it uses, its own first."""
        kind, _, number = self.device.partition(":")
        if kind != "cuda":
            return ()
        return (self.device, *(f"cuda:{int(number or 0) + more}" for more in range(1, self.gpus)))

    @property
    def log_name(self) -> str:
        return f"{self.name}{'b' if self.lane else ''}.log"


class Child:
    """A started process. `said`: the version that it has loaded. `ours`: we asked it to end. `doom`: why we ended it, its own
    fault where it is `blamed`. `kill_at`: when SIGKILL is due, for `late_doom`."""

    def __init__(self, process: subprocess.Popen[bytes], incarnation: str, log: Log) -> None:
        self.pid = process.pid
        self.pidfd = os.pidfd_open(process.pid)
        self.incarnation = incarnation
        self.ready_fd: int | None = None
        self.said = ""
        self.progress_fd: int | None = None
        self.ours = False
        self.doom = ""
        self.blamed = True
        self.late_doom = ""
        self.kill_at: float | None = None
        self.log = log
        self._process = process

    def reap(self) -> int | None:
        """The return code as `subprocess` gives it; None while it lives."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False when it still lives after `timeout_s`."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def send(self, number: int) -> None:
        """A signal, to this process and never to another that got its pid."""
        if self._process.returncode is None:
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                pass

    def progress(self) -> progress.Progress:
        """What it last wrote of its work. Whatever it left behind, this does not fail."""
        if self.progress_fd is None:
            return progress.Progress()
        try:
            written = os.pread(self.progress_fd, progress.SIZE, 0)
        except OSError:
            return progress.Progress()
        return progress.read_progress(bytearray(written.ljust(progress.SIZE, b"\0")))

    def look(self, beat: int | None = None) -> Look:
        """How it is now. `beat` stands for the stamp of a process that has no progress buffer."""
        seen = self.progress()
        return Look(seen.beat_ns if beat is None else beat, seen.started_ns, seen.p99_ns / 1e9, self._state())

    def _state(self) -> str:
        try:
            return Path(f"/proc/{self.pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return ""

    def last_log(self) -> str:
        """The end of what this incarnation wrote, up to 32 KiB; empty where it has no log of its own."""
        return self.log.last()

    def close_ready(self) -> None:
        if self.ready_fd is not None:
            os.close(self.ready_fd)
            self.ready_fd = None

    def close(self) -> None:
        """Give back every descriptor. Only after its end."""
        self.close_ready()
        if self.progress_fd is not None:
            os.close(self.progress_fd)
            self.progress_fd = None
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def spawn(
    spec: ChildSpec, *, death_fd: int, log: Path | None = None, channel_fd: int | None = None, told: Sequence[bytes] = ()
) -> Child:
    """Start `spec` in a session of its own. `log` None: it writes to the parent's stderr. `told`: datagrams that wait for
    a worker on its ready descriptor. Raises OSError."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("children are started from the main thread: they die with the thread that starts them")
    incarnation, given, kept = "", [death_fd], []
    args = list(spec.args)
    progress_fd = ready_fd = None
    try:
        if spec.kind == WORKER:
            incarnation = secrets.token_hex(INCARNATION_BYTES)
            progress_fd = os.memfd_create("ragpool-progress")
            kept.append(progress_fd)
            os.ftruncate(progress_fd, progress.SIZE)
            ready_fd, ready_child_fd = _ready_line(told)
            kept += (ready_fd, ready_child_fd)
            given += (progress_fd, ready_child_fd)
            args += ("--incarnation", incarnation, "--progress-fd", str(progress_fd), "--ready-fd", str(ready_child_fd))
        if channel_fd is not None:
            given.append(channel_fd)
            args += ("--channel-fd", str(channel_fd))
        child = _execute(spec, args, given, incarnation, log)
        child.progress_fd, child.ready_fd = progress_fd, ready_fd
        kept = kept[2:]
        return child
    finally:
        for descriptor in kept:
            os.close(descriptor)


def _ready_line(told: Sequence[bytes]) -> tuple[int, int]:
    """(our end, the child's), with `told` waiting there as far as there is room."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    try:
        for datagram in told:
            ours.send(datagram)
    except OSError:
        pass  # no room: the newest come first, and older ones were told before
    return ours.detach(), theirs.detach()


def _execute(spec: ChildSpec, args: list[str], given: list[int], incarnation: str, log_file: Path | None) -> Child:
    launcher = [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else []), "-m", f"{__package__}.child"]
    command = [*launcher, "--parent", str(os.getpid()), "--death-fd", str(given[0]), spec.module, *args]
    log = Log(log_file)
    output = log.open()
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **spec.env},
            pass_fds=given,
            start_new_session=True,
        )
    finally:
        if output > 2:
            os.close(output)
    try:
        return Child(process, incarnation, log)
    except OSError:
        process.kill()
        process.wait()
        raise
