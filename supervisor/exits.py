"""How a child ended, in words, and whose doing it was. Pure: a return code in, a verdict out. Never looks at a process itself."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from ..wire import exit_codes

FAULT = "fault"
"""Its own doing: it counts towards quarantine."""
OPERATOR = "operator"
"""A signal from outside, or it left by itself when asked by somebody else: started again, not counted."""
OURS = "ours"
"""We stopped it."""
AGAIN = "again"
"""It asked to be started again."""
DISMISSED = "dismissed"
"""An operator drained it: it stays away until it is wanted again."""
CONFIGURATION = "configuration"
"""Starting it again cannot help."""

FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
"""Signals that a process does not send itself when it breaks."""

STACK_MAX_CHARACTERS = 8192
_NO_ROOM = re.compile(r"finds no room on cuda|out of memory|cannot allocate memory|bad_alloc", re.IGNORECASE)
"""Words of ours, of torch, of the system and of C++. A kernel's kill is told as one of them too."""
_STACK_STARTS = ("Fatal Python error:", "Timeout (", "Current thread 0x", "Thread 0x")


@dataclass(frozen=True, slots=True)
class Exit:
    """One end. `blame`: what it ran then is suspect. `code` or `signal` is set; neither when it could not be started."""

    reason: str
    cause: str
    blame: bool
    code: int | None = None
    signal: str | None = None


@dataclass(frozen=True, slots=True)
class EndRecord:
    """What is kept of an end. `at`: seconds since 1970. `stack`: faulthandler's text, if there was any. `device_memory`: bytes on
    its CUDA device when it was last seen alive ("used", "total" and its own, "process"), where the driver tells."""

    at: float
    exit: Exit
    pid: int | None = None
    incarnation: str = ""
    log_tail: str = ""
    running: tuple[bytes, ...] = ()
    stack: str | None = None
    device_memory: Mapping[str, int] | None = None


def classify(returncode: int, *, was_ours: bool = False, oom: bool = False, sentence: str = "") -> Exit:
    """The meaning of a return code as `subprocess` gives it (-N: killed by signal N).

    `was_ours`: we had asked it to end; that excuses a drain and the signals we send, never a crash on the way out.
    `oom`: the kernel killed for memory. `sentence`: its last words, for a configuration error.
    """
    if returncode < 0:
        return _by_signal(-returncode, was_ours, oom)
    if returncode == exit_codes.DRAINED:
        return Exit("drained", OURS if was_ours else OPERATOR, False, code=returncode)
    if returncode == exit_codes.AGAIN:
        return Exit("asked to be started again", AGAIN, False, code=returncode)
    if returncode == exit_codes.DISMISSED:
        return Exit("drained by the operator of the pool", DISMISSED, False, code=returncode)
    if returncode == exit_codes.CONFIGURATION:
        return Exit(f"configuration: {sentence or 'no reason given'}", CONFIGURATION, False, code=returncode)
    if returncode == exit_codes.CUDA_BROKEN:
        return Exit(f"exit code {returncode} (CUDA error)", FAULT, True, code=returncode)
    return Exit(f"exit code {returncode}", FAULT, True, code=returncode)


def doomed(reason: str, returncode: int, *, hung: bool = True) -> Exit:
    """We ended it for `reason`: its own doing however it went in the end, or (not `hung`) that of somebody outside."""
    cause = FAULT if hung else OPERATOR
    if returncode < 0:
        return Exit(reason, cause, hung, signal=signal_name(-returncode))
    return Exit(reason, cause, hung, code=returncode)


def not_started(reason: str) -> Exit:
    """The system would not start it."""
    return Exit(f"could not be started: {reason}", FAULT, False)


def _by_signal(number: int, was_ours: bool, oom: bool) -> Exit:
    name = signal_name(number)
    if oom and number == signal.SIGKILL:
        return Exit(f"killed by {name} (out of memory)", FAULT, True, signal=name)
    if number not in FROM_OUTSIDE:
        return Exit(f"killed by {name}", FAULT, True, signal=name)
    return Exit(f"killed by {name}", OURS if was_ours else OPERATOR, False, signal=name)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def last_line(text: str) -> str:
    """The last line with anything on it: how a child says one sentence to the operator."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def lacked_room(end: EndRecord) -> bool:
    """Whether memory, the host's or a device's, did not suffice for it."""
    words = f"{end.exit.reason}\n{last_line(end.log_tail)}"
    return end.exit.cause in (FAULT, CONFIGURATION) and _NO_ROOM.search(words) is not None


def find_stack(text: str) -> str | None:
    """faulthandler's dump at the end of a log, at most `STACK_MAX_CHARACTERS` of it; None where there is none."""
    for start in _STACK_STARTS:
        position = text.find(start)
        if position >= 0:
            return text[position : position + STACK_MAX_CHARACTERS]
    return None
