"""One child process: started by exec, watched through its pidfd, told apart by its incarnation. Decides nothing.

Children are started from the main thread only: the parent-death signal fires when the *thread* that started them ends.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..wire import progress

WORKER = "worker"
BROKER = "broker"
PROBE = "probe"

INCARNATION_BYTES = 8
LOG_MAX_BYTES = 1024 * 1024
"""A log beyond this is put aside as NAME.log.1 before the next start."""
LOG_TAIL_BYTES = 2048
_LOG_READ_BYTES = 32 * 1024


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run: a module by name, with its arguments. `env` is added to the parent's environment.

    A worker also gets `--incarnation HEX --progress-fd N --ready-fd N`, the broker `--channel-fd N`, other kinds nothing.
    """

    kind: str
    module: str
    args: tuple[str, ...] = ()
    slot: int = -1
    device: str = ""
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.slot}" if self.slot >= 0 else self.kind


class Child:
    """A started process. `ours`: we asked it to end. `doom`: its fault for which we ended it. `kill_at`: when SIGKILL is due, for
    `late_doom`."""

    def __init__(self, process: subprocess.Popen[bytes], incarnation: str, log: Path | None, log_start: int) -> None:
        self.pid = process.pid
        self.pidfd = os.pidfd_open(process.pid)
        self.incarnation = incarnation
        self.ready_fd: int | None = None
        self.progress_fd: int | None = None
        self.ours = False
        self.doom = ""
        self.late_doom = ""
        self.kill_at: float | None = None
        self._process = process
        self._log = log
        self._log_start = log_start

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

    def running(self) -> tuple[bytes, ...]:
        """Ids of the requests it was running when it last wrote. Whatever it left behind, this does not fail."""
        if self.progress_fd is None:
            return ()
        try:
            written = os.pread(self.progress_fd, progress.SIZE, 0)
        except OSError:
            return ()
        return progress.read_progress(bytearray(written.ljust(progress.SIZE, b"\0"))).running

    def last_log(self) -> str:
        """The end of what this incarnation wrote, up to 32 KiB; empty where it has no log of its own."""
        if self._log is None:
            return ""
        try:
            with self._log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(min(self._log_start, size), size - _LOG_READ_BYTES))
                return file.read(_LOG_READ_BYTES).decode(errors="replace")
        except OSError:
            return ""

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


def spawn(spec: ChildSpec, *, death_fd: int, log: Path | None = None, channel_fd: int | None = None) -> Child:
    """Start `spec` in a session of its own. `log` None: it writes to the parent's stderr. Raises OSError."""
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
            ready_fd, ready_write_fd = os.pipe()
            kept += (ready_fd, ready_write_fd)
            os.set_blocking(ready_fd, False)
            given += (progress_fd, ready_write_fd)
            args += ("--incarnation", incarnation, "--progress-fd", str(progress_fd), "--ready-fd", str(ready_write_fd))
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


def _execute(spec: ChildSpec, args: list[str], given: list[int], incarnation: str, log: Path | None) -> Child:
    launcher = [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else []), "-m", f"{__package__}.child"]
    command = [*launcher, "--parent", str(os.getpid()), "--death-fd", str(given[0]), spec.module, *args]
    output, log_start = _open_log(log)
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
        if log is not None and output >= 0:
            os.close(output)
    try:
        return Child(process, incarnation, log, log_start)
    except OSError:
        process.kill()
        process.wait()
        raise


def _open_log(log: Path | None) -> tuple[int, int]:
    """(descriptor, size so far). A log that cannot be written costs the log, not the child."""
    if log is None:
        return 2, 0
    try:
        if log.exists() and log.stat().st_size > LOG_MAX_BYTES:
            log.replace(log.with_name(log.name + ".1"))
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return subprocess.DEVNULL, 0
    return descriptor, os.fstat(descriptor).st_size


def tail(text: str) -> str:
    """The last whole lines of `text`, at most `LOG_TAIL_BYTES`."""
    data = text.encode()
    if len(data) <= LOG_TAIL_BYTES:
        return text
    cut = data[-LOG_TAIL_BYTES:]
    return cut[cut.find(b"\n") + 1 :].decode(errors="ignore")
