"""All children that live: started with their log and their ties to the parent, listened to, and ended when their time is up.

It knows no slots and no policy: what an end means is decided by whoever asked for the child.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from .exits import Exit, classify, doomed, last_line
from .oom import OomKills
from .process import Child, ChildSpec, spawn

ABORT_S = 5.0
"""From SIGABRT, which makes faulthandler write the stack, to SIGKILL, which a stopped process obeys too."""
FAREWELL_S = 5.0

Heard = Callable[[Child], None]


class Children:
    """`alive` maps pid to child. `logs` None: children write to the parent's stderr."""

    def __init__(self, selector: selectors.BaseSelector, logs: Path | None) -> None:
        self.alive: dict[int, Child] = {}
        self._selector = selector
        self._logs = logs
        self._oom = OomKills()
        self._death_fd, self._life_fd = os.pipe()

    def start(
        self,
        spec: ChildSpec,
        ended: Heard,
        loaded: Heard | None = None,
        channel_fd: int | None = None,
        told: Sequence[bytes] = (),
    ) -> Child:
        """Start `spec`. `ended` is called when it is gone (then `reap` it), `loaded` when it says so. `told`: what a worker finds
        waiting on its end of that line. Raises OSError."""
        self._oom.forget()
        log = self._logs / spec.log_name if self._logs else None
        child = spawn(spec, death_fd=self._death_fd, log=log, channel_fd=channel_fd, told=told)
        self.alive[child.pid] = child
        self._selector.register(child.pidfd, selectors.EVENT_READ, partial(ended, child))
        if child.ready_fd is not None:
            self._selector.register(child.ready_fd, selectors.EVENT_READ, partial(self._hear_ready, child, loaded))
        return child

    def _hear_ready(self, child: Child, loaded: Heard | None) -> None:
        if child.ready_fd is None:
            return
        try:
            said = os.read(child.ready_fd, 64)
        except BlockingIOError:
            return
        except OSError:
            said = b""  # gone, before it read what it was told
        self._selector.unregister(child.ready_fd)
        child.close_ready()
        child.said = said.decode(errors="replace")
        if said and loaded is not None:
            loaded(child)

    def reap(self, child: Child) -> Exit | None:
        """How it ended; None while it still lives. Its log and progress can be read until `child.close()`."""
        returncode = child.reap()
        if returncode is None or self.alive.pop(child.pid, None) is None:
            return None
        self._selector.unregister(child.pidfd)
        if child.ready_fd is not None:
            self._selector.unregister(child.ready_fd)
            child.close_ready()
        if child.doom:
            return doomed(child.doom, returncode, hung=child.blamed)
        oom = returncode == -signal.SIGKILL and not child.ours and self._oom.explains_one()
        sentence = last_line(child.last_log()) if returncode > 0 else ""
        return classify(returncode, was_ours=child.ours, oom=oom, sentence=sentence)

    def terminate(self, child: Child, now: float, grace_s: float) -> None:
        """Ask it to drain and leave; SIGKILL after `grace_s`. It is asked once: a second SIGTERM would mean now."""
        if not child.ours:
            child.send(signal.SIGTERM)
        child.ours = True
        self.kill_by(child, now + grace_s)

    def abort(self, child: Child, now: float, doom: str) -> None:
        """End it for a fault of its own, with a stack dump in its log."""
        child.doom = doom
        child.send(signal.SIGABRT)
        self.kill_by(child, now + ABORT_S)

    def doom(self, child: Child, doom: str, *, blamed: bool = True) -> None:
        """End it now, for a fault of its own, or (not `blamed`) because somebody outside left it no way to go on."""
        child.doom, child.blamed = child.doom or doom, child.blamed and blamed
        child.send(signal.SIGKILL)

    def kill(self, child: Child) -> None:
        """End it now; we do not need it any more."""
        child.ours = True
        child.send(signal.SIGKILL)

    def kill_by(self, child: Child, at: float, doom: str = "") -> None:
        """SIGKILL at that time, or before if that was said earlier; `doom` is its fault if it comes to that."""
        child.kill_at = at if child.kill_at is None else min(child.kill_at, at)
        child.late_doom = child.late_doom or doom

    def kill_overdue(self, now: float) -> None:
        for child in self.alive.values():
            if child.kill_at is not None and now >= child.kill_at:
                child.kill_at = None
                child.doom = child.doom or child.late_doom
                child.send(signal.SIGKILL)

    def next_kill(self) -> float | None:
        return min((child.kill_at for child in self.alive.values() if child.kill_at is not None), default=None)

    def close(self) -> None:
        """Nothing of ours survives: SIGKILL for all that live, and for those that the kernel holds, the closing death pipe."""
        for child in self.alive.values():
            child.send(signal.SIGKILL)
        give_up = time.monotonic() + FAREWELL_S
        for child in self.alive.values():
            child.wait(max(0.0, give_up - time.monotonic()))
            child.close()
        self.alive.clear()
        os.close(self._life_fd)
        os.close(self._death_fd)
