"""The parent's loop: sees children end, hears broker and signals, does what policy, start-up and shutdown say.

It holds no network socket and decides nothing that a pure module could decide. It must run in the main thread, and
whatever happens in it, no child outlives it.
"""

from __future__ import annotations

import os
import selectors
import signal
import threading
import time
from collections.abc import Callable, Sequence

from ..conf.paths import RunPaths
from ..conf.settings import SupervisorSettings
from ..wire.messages import Control, Drain, Drained, Serving
from . import shutdown
from .aims import Aim, MakeSpec
from .channel import FromBroker
from .children import Children
from .exits import EndRecord, Exit, last_line
from .fleet import Fleet
from .journal import Journal
from .link import BrokerLink
from .notify import Notifier
from .nvml import start_readings
from .orders import obey
from .policy import RUNNING
from .probing import Probing
from .process import ChildSpec
from .publish import Published
from .shutdown import Shutdown
from .signals import Signals, has_terminal
from .slots import Slot
from .startup import Startup, Verdict
from .swap import Swap

SAME_WISH_S = 0.05
"""Two signals this close are one wish: `timeout` sends one to the process and one to its group."""
CHANNEL_LOST_S = 1.0
"""A broker that closes its channel is about to end; if not, it is ended, since nobody can speak to it any more."""

Announce = Callable[[str], None]


class Supervisor:
    """Keeps one broker (or none) and some workers alive, until it is told to stop.

    `probe` runs once the broker serves; its exit code 0 makes the pool ready. Without one the pool is ready when the
    broker serves and a worker has loaded; without a broker, when every worker has. `on_serving` and `on_ready` get the
    frontend's address, each once. `aim` is what `workers` serve; `make` makes the spec of a slot for another aim, or of
    one more slot. `paths` None: no state file, logs on stderr. `stopped_max_s`: for how long a worker may be stopped by a
    signal. The run directory must have been claimed before (`rundir.claim`).
    """

    def __init__(
        self,
        workers: Sequence[ChildSpec],
        *,
        settings: SupervisorSettings,
        broker: ChildSpec | None = None,
        probe: ChildSpec | None = None,
        paths: RunPaths | None = None,
        drain_timeout_s: float = 30.0,
        load_timeout_s: float = 600.0,
        stopped_max_s: float = 10.0,
        on_serving: Announce | None = None,
        on_ready: Announce | None = None,
        make: MakeSpec | None = None,
        aim: Aim = Aim(),  # noqa: B008 - frozen
    ) -> None:
        self._specs = (broker, tuple(workers), probe)
        self._settings = settings
        self._limits_s = (load_timeout_s, stopped_max_s)
        self._drain_timeout_s = drain_timeout_s
        self._on_serving = on_serving
        self._on_ready = on_ready
        self._rollouts = (make, aim)
        self._paths = paths
        self._journal = Journal(paths.logs / "parent.log" if paths else None)
        self._startup = Startup()
        self._shutdown = Shutdown(drain_timeout_s)
        self._asked_at = 0.0
        self._drains = False
        self._told_sentence = ""
        self._pool: dict[str, object] = {
            "pid": os.getpid(),
            "frontend": "",
            "backend": "",
            "started_at": 0.0,
            "state": "starting",
        }

    def run(self) -> int:
        """Until stopped. Returns the exit code of the program: 0 after an orderly stop, also a timed-out one; 128 + N after a
        second signal N; 1 or 2 when the pool did not come up, the sentence for that is on stderr. Main thread only."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the parent's loop runs in the main thread: its children die with the thread that started them")
        with Signals() as self._signals, selectors.DefaultSelector() as self._selector:
            self._open()
            try:
                self._fleet.want(time.monotonic())
                self._advance(time.monotonic())
                while self._shutdown.stage != shutdown.DONE:
                    self._turn()
            finally:
                self._children.close()
                self._link.close()
                self._pool["state"] = "stopped"
                self._notifier.stopping()
                self._published.tell(self._pool, self._fleet, self._swap.brief(), time.monotonic())
        return self._shutdown.exit_code

    def _open(self) -> None:
        broker, workers, probe = self._specs
        self._selector.register(self._signals.fileno(), selectors.EVENT_READ, self._hear_signals)
        self._children = Children(self._selector, self._paths.logs if self._paths else None)
        self._link = BrokerLink(self._selector, self._hear_broker, self._lose_channel)
        self._notifier = Notifier(os.environ)
        memory = start_readings([device for worker in workers for device in worker.devices])
        make, aim = self._rollouts
        self._fleet = Fleet(
            broker,
            workers,
            aim,
            self._settings,
            *self._limits_s,
            memory,
            self._children,
            self._link,
            self._journal,
            self._after_end,
        )
        self._swap = Swap(self._fleet, make, aim, self._drain_timeout_s, self._journal)
        self._reloads_on_hangup = not has_terminal()
        self._probing = Probing(probe, self._children, self._after_probe) if probe else None
        self._pool["started_at"] = time.time()
        self._published = Published(self._link, self._paths, self._journal, self._notifier)

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._timeout(time.monotonic())):
            key.data()
        self._advance(time.monotonic())

    def _timeout(self, now: float) -> float | None:
        """Seconds until something is due; None: only an event can change anything."""
        due = [self._fleet.deadline(), self._children.next_kill(), self._shutdown.deadline, self._published.due_at]
        if self._probing:
            due.append(self._probing.due_at)
        first = min((at for at in due if at is not None), default=None)
        return None if first is None else max(0.0, first - now)

    def _advance(self, now: float) -> None:
        """Whatever is due, then whatever follows from what happened."""
        self._fleet.tick(now)
        self._children.kill_overdue(now)
        if self._probing:
            self._probing.advance(now)
        self._check_ready()
        self._swap.advance(now, may_begin=self._startup.ready and not self._shutdown.begun)
        self._go_down(now)
        if self._shutdown.stage in (shutdown.SERVING, shutdown.DRAINING):
            self._fleet.fill(now, broker=not self._shutdown.begun)
        self._published.tell(self._pool, self._fleet, self._swap.brief(), now)
        self._notifier.feed(self._link.answers if self._fleet.broker else now, now)

    # ---- what is heard ----------------------------------------------------------------------------------------------

    def _hear_signals(self) -> None:
        for number in self._signals.read():
            now = time.monotonic()
            if number == signal.SIGHUP and self._reloads_on_hangup:
                self._swap.hang_up()
            elif not self._shutdown.begun:
                self._asked_at = now
                self._drain(now)
            elif now - self._asked_at >= SAME_WISH_S:
                self._shutdown.kill(now, 128 + number)

    def _hear_broker(self, record: FromBroker) -> None:
        if isinstance(record, Serving):
            self._pool.update(frontend=record.frontend, backend=record.backend)
            broker = self._fleet.broker
            if broker is not None and broker.child is not None:
                self._fleet.loaded(broker, broker.child)
            if self._drains or self._shutdown.stage == shutdown.DRAINING:
                self._link.put(Drain())
            if not self._startup.served:
                self._startup.served = True
                self._announce(self._on_serving)
                if self._probing and not self._shutdown.begun:
                    self._probing.want(time.monotonic())
        elif isinstance(record, Drained):
            self._shutdown.drained = self._shutdown.stage == shutdown.DRAINING
        elif isinstance(record, Control):
            self._obey(record, time.monotonic())

    def _obey(self, control: Control, now: float) -> None:
        """An operator's command. One that cannot be done is noted, and changes nothing."""
        done = True
        if control.command == "stop":
            self._drain(now)
        elif control.command == "drain" and not control.argument:
            self._drains = True
        else:
            ready = self._startup.ready
            done = not self._shutdown.begun and obey(self._fleet, self._swap, control, ready, now, self._drain_timeout_s)
        self._journal.note(f"command {control.command!r} {control.argument[:100]!r}" + ("" if done else " is not possible"))

    def _lose_channel(self, sentence: str) -> None:
        child = self._fleet.broker.child if self._fleet.broker else None
        if child is not None and not child.ours:
            if sentence:
                self._children.doom(child, sentence)
            else:
                self._children.kill_by(child, time.monotonic() + CHANNEL_LOST_S, "closed the channel")

    # ---- what follows -----------------------------------------------------------------------------------------------

    def _after_end(self, slot: Slot, record: EndRecord) -> None:
        if self._shutdown.begun:
            return
        self._swap.ended(slot, record, time.monotonic())
        sentence = last_line(record.log_tail)
        if slot.is_broker:
            verdict = self._startup.broker_ended(record.exit, sentence)
        else:
            states = [worker.policy.state for worker in self._fleet.workers]
            verdict = self._startup.worker_ended(slot.name, record.exit, sentence, states)
        self._give_up(verdict)

    def _after_probe(self, end: Exit, sentence: str) -> None:
        if self._shutdown.begun or self._startup.ready:
            return
        if end.code == 0:
            self._become_ready()
            return
        verdict = self._startup.probe_ended(end, sentence, any(slot.policy.state == RUNNING for slot in self._fleet.workers))
        if verdict is None and self._probing:
            if sentence != self._told_sentence:
                self._journal.warn(sentence or f"the first query failed: {end.reason}")
            self._told_sentence = sentence
            self._probing.retry(time.monotonic())
        self._give_up(verdict)

    def _give_up(self, verdict: Verdict | None) -> None:
        if verdict is not None and not self._shutdown.begun:
            self._journal.warn(verdict.sentence)
            self._shutdown.kill(time.monotonic(), verdict.exit_code)

    def _check_ready(self) -> None:
        if self._startup.ready or self._probing or self._shutdown.begun:
            return
        served = [slot.policy.served for slot in self._fleet.workers]
        if self._startup.served and (any(served) or not served) if self._fleet.broker else all(served):
            self._become_ready()

    def _become_ready(self) -> None:
        self._startup.ready = True
        self._pool["state"] = "serving"
        self._journal.note("ready")
        self._published.tell(
            self._pool, self._fleet, self._swap.brief(), time.monotonic()
        )  # whoever hears `ready` finds it in state.json too
        self._notifier.ready()
        self._announce(self._on_ready)

    def _announce(self, announce: Announce | None) -> None:
        """A terminal that is gone is no reason to end."""
        try:
            if announce is not None:
                announce(str(self._pool["frontend"]))
        except OSError as error:
            self._journal.note(f"could not be announced: {error}")

    # ---- the end ----------------------------------------------------------------------------------------------------

    def _drain(self, now: float) -> None:
        self._shutdown.drain(now, through_broker=self._startup.served and self._link.is_open)

    def _go_down(self, now: float) -> None:
        broker = self._fleet.broker
        broker_lives = broker is not None and broker.child is not None
        others = len(self._children.alive) - broker_lives
        for stage in self._shutdown.advance(now, workers=others, broker=broker_lives):
            self._enter(stage, now)

    def _enter(self, stage: str, now: float) -> None:
        self._journal.note(stage)
        self._pool["state"] = "draining"
        self._notifier.stopping()
        self._swap.cancel("the pool goes down", now)
        if self._probing:
            self._probing.stop()
        if stage == shutdown.DRAINING:
            self._link.put(Drain())
        elif stage == shutdown.STOPPING_WORKERS:
            for slot in self._fleet.workers:
                self._fleet.stop(slot, now, self._drain_timeout_s + shutdown.STOP_WORKERS_S)
        elif stage == shutdown.STOPPING_BROKER:
            for slot in self._fleet.slots:
                if slot.child is not None and not slot.is_broker:
                    self._children.kill(slot.child)
            if self._fleet.broker is not None:
                self._fleet.stop(self._fleet.broker, now, shutdown.STOP_BROKER_S)
        elif stage == shutdown.KILLING:
            self._fleet.kill(now)
