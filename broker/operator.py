"""An operator's commands, decided: what the broker does itself, and what only the parent can do."""

from __future__ import annotations

from ..wire.errors import BadRequest
from ..wire.messages import Control, Drain
from .commands import PARENT, Command, ToParent, ToWorker
from .core import Core
from .workers import Worker

WORKERS_MAX = 1024
ROLLING_OUT = ("loading", "replacing")
"""States of a rollout that is not over."""


def obey(core: Core, command: str, argument: str, supervised: bool, now: float, ticket: str = "") -> list[Command]:
    """What `stop`, `drain`, `restart`, `reload` or `scale` means now. `ticket`: by which whoever asked finds the outcome of a
    rollout in the status. Raises `BadRequest` for what cannot be done, with the reason."""
    if command == "drain" and not argument:
        told = [ToParent(Control(command))] if supervised else []
        return [*core.receive(PARENT, b"", Drain(), now), *told]
    if command == "restart" and not argument:
        return _restart_all(core, supervised, now, ticket)
    if command in ("drain", "restart"):
        return _one_worker(core, command, argument, supervised, now)
    if command not in ("stop", "scale", "reload"):
        raise BadRequest(f"unknown command {command!r}")
    if not supervised:
        raise BadRequest(f"this broker has no supervisor, which alone can {command}")
    if command == "scale" and not (argument.isascii() and argument.isdigit() and int(argument[:5]) <= WORKERS_MAX):
        raise BadRequest(f"scale takes a number of workers, 0 to {WORKERS_MAX}, not {argument!r}")
    if command == "reload":
        _check_free(core)
    return [ToParent(Control(command, argument, ticket))]


def _restart_all(core: Core, supervised: bool, now: float, ticket: str) -> list[Command]:
    """Our parent replaces its own workers; those of other hosts are told, one at a time."""
    own = core.slots.incarnations
    _check_free(core)
    others = core.rolling.begin([worker for worker in core.registry if worker.info.incarnation not in own])
    if not others and not (supervised and own):
        raise BadRequest("there is no worker that anybody would start again")
    told: list[Command] = roll(core, supervised, now)
    if supervised and own:
        told.append(ToParent(Control("restart", "", ticket)))
    return told


def _check_free(core: Core) -> None:
    """One rollout at a time. Raises `BadRequest`."""
    rollout = core.slots.rollout
    if rollout.state in ROLLING_OUT:
        raise BadRequest(f"a {rollout.kind} is under way: {rollout.told}")
    if core.draining:
        raise BadRequest("the pool drains")


def roll(core: Core, supervised: bool, now: float) -> list[Command]:
    """The next step of a restart of all, if one is due. Called at every turn."""
    if not core.rolling.active:
        return []
    name = core.rolling.next(tuple(core.registry), now)
    return _one_worker(core, "restart", name, supervised, now) if name is not None else []


def _one_worker(core: Core, command: str, name: str, supervised: bool, now: float) -> list[Command]:
    """A worker of our own parent is the parent's to end; one of another host is told over the wire."""
    worker = _find(core, name)
    if worker is not None and worker.info.incarnation not in core.slots.incarnations:
        core.registry.leave(worker, now)
        return [ToWorker(worker.peer, Drain(again=command == "restart"))]
    slot = core.slots.find(name if worker is None else worker.info.incarnation)
    if slot is None or not supervised:
        known = [worker.info.incarnation for worker in core.registry]
        raise BadRequest(f"no worker {name!r}; there is: {', '.join(known) or 'none'}, or a slot by its number")
    return [ToParent(Control(command, str(slot)))]


def _find(core: Core, name: str) -> Worker | None:
    worker = core.registry.incarnation(name)
    matching = [worker for worker in core.registry if name and worker.info.incarnation.startswith(name)]
    return worker or (matching[0] if len(matching) == 1 and len(name) >= 4 else None)
