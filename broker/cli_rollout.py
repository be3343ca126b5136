"""Waits for the outcome of a reload, as the command that asked for it does, and shows how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import click

from ..wire.errors import RagpoolError

LOOK_S = 0.2
TAKEN_UP_S = 5.0
"""A command that the supervisor has not taken up by then was lost, or came during another one."""


def wait(status: Callable[[], Mapping[str, Any]], ticket: str) -> str:
    """The sentence of its success. Raises `RagpoolError` with the reason where it fails. It goes on if nobody waits for it."""
    give_up = time.monotonic() + TAKEN_UP_S
    shown = ""
    while True:
        rollout = status().get("rollout") or {}
        if rollout.get("ticket") == ticket:
            told = str(rollout["told"])
            if rollout["state"] == "done":
                return told
            if rollout["state"] == "failed":
                raise RagpoolError(f"not reloaded: {told}")
            if told != shown:
                click.echo(told, err=True)
            shown, give_up = told, time.monotonic() + TAKEN_UP_S
        elif time.monotonic() > give_up:
            raise RagpoolError("the supervisor did not take it up: it is still starting, or another reload came first; ask again")
        time.sleep(LOOK_S)
