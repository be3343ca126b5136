"""An operator's commands that concern workers, as the broker passes them on."""

from __future__ import annotations

from collections.abc import Callable

from ..wire.messages import Control
from .fleet import Fleet
from .process import ChildSpec

Grow = Callable[[int], ChildSpec]


def obey(fleet: Fleet, control: Control, grow: Grow | None, now: float, grace_s: float) -> bool:
    """`restart`, `drain` or `scale`. False: not possible, and nothing changed."""
    if control.command == "restart":
        return fleet.restart(control.argument, now, grace_s)
    if control.command == "drain":
        return fleet.drain(control.argument, now, grace_s)
    if control.command == "scale" and control.argument.isdecimal():
        return fleet.scale(int(control.argument[:4]), grow, now, grace_s)
    return False
