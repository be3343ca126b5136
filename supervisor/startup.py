"""Whether a pool came up, and when to give up on it. Pure: ends go in, a verdict comes out, none after `ready`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from .exits import AGAIN, CONFIGURATION, OPERATOR, Exit
from .policy import QUARANTINED, STOPPED

BROKER_TRIES = 3
"""Ends of a broker that never served."""
PROBE_TRIES = 5
"""Failures of the probe while a worker stood ready to answer."""

FAILURE = 1
WRONG_CONFIGURATION = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """Give up: the exit code of the parent, and the sentence for the operator."""

    exit_code: int
    sentence: str


class Startup:
    """`served`: the broker bound its sockets at least once."""

    def __init__(self) -> None:
        self.ready = False
        self.served = False
        self._broker_ends = 0
        self._probe_failures = 0

    def broker_ended(self, end: Exit, sentence: str) -> Verdict | None:
        if self.ready:
            return None
        if end.cause == CONFIGURATION:
            return Verdict(WRONG_CONFIGURATION, sentence or "the broker is configured wrongly")
        self._broker_ends += not self.served
        if self._broker_ends >= BROKER_TRIES:
            return Verdict(FAILURE, _failed("the broker", end, sentence))
        return None

    def worker_ended(self, name: str, end: Exit, sentence: str, states: Collection[str]) -> Verdict | None:
        """`states`: those of all worker slots after this end."""
        if self.ready:
            return None
        if end.cause == CONFIGURATION:
            return Verdict(WRONG_CONFIGURATION, sentence or f"{name} is configured wrongly")
        if all(state in (QUARANTINED, STOPPED) for state in states):
            return Verdict(FAILURE, _failed(name, end, sentence))
        return None

    def probe_ended(self, end: Exit, sentence: str, worker_runs: bool) -> Verdict | None:
        """The probe did not get its answer."""
        if self.ready:
            return None
        if end.cause == CONFIGURATION:
            return Verdict(WRONG_CONFIGURATION, sentence or "the probe is configured wrongly")
        self._probe_failures += worker_runs and end.cause not in (OPERATOR, AGAIN)
        if self._probe_failures >= PROBE_TRIES:
            return Verdict(FAILURE, _failed("the first query", end, sentence))
        return None


def _failed(who: str, end: Exit, sentence: str) -> str:
    return f"{who} failed at the start ({end.reason})" + (f": {sentence}" if sentence else "")
