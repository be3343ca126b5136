"""An operator's commands that concern workers, as the broker passes them on."""

from __future__ import annotations

from ..wire.messages import Control
from .fleet import Fleet
from .rollout import RELOAD, RESTART
from .swap import Swap


def obey(fleet: Fleet, swap: Swap, control: Control, ready: bool, now: float, grace_s: float) -> bool:
    """`reload`, `restart` (of one, or of all), `drain` or `scale`. False: not possible, and nothing changed. `ready`: the pool
    came up; before that there is nothing to replace."""
    if control.command == "reload":
        return ready and swap.begin(RELOAD, control.argument, control.ticket, now)
    if control.command == "restart" and not control.argument:
        return ready and swap.begin(RESTART, "", control.ticket, now)
    if control.command == "restart":
        return fleet.restart(control.argument, now, grace_s)
    if control.command == "drain":
        return fleet.drain(control.argument, now, grace_s)
    if control.command == "scale" and control.argument.isdecimal():
        return fleet.scale(int(control.argument[:4]), swap.grow, now, grace_s)
    return False
