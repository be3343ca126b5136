"""The numbers of the restart policy, and the one formula among them. Pure: chance is passed in."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from ..conf.settings import SupervisorSettings


@dataclass(frozen=True, slots=True)
class RestartRules:
    """The numbers of one kind of slot.

    `restarts_max` None: never given up once it has served. `at_once`: the first restart does not wait.
    """

    backoff_min_s: float = 0.5
    backoff_max_s: float = 30.0
    backoff_jitter: float = 0.2
    healthy_after_s: float = 60.0
    restarts_max: int | None = 5
    restarts_window_s: float = 60.0
    quarantine_probe_s: float = 300.0
    at_once: bool = False


BROKER_RULES = RestartRules(backoff_min_s=0.2, backoff_max_s=5.0, healthy_after_s=10.0, restarts_max=None, at_once=True)


def worker_rules(settings: SupervisorSettings) -> RestartRules:
    return RestartRules(
        settings.backoff_min_s,
        settings.backoff_max_s,
        settings.backoff_jitter,
        settings.healthy_after_s,
        settings.restarts_max,
        settings.restarts_window_s,
        settings.quarantine_probe_s,
    )


def backoff_s(rules: RestartRules, attempt: int, rng: Random) -> float:
    """Seconds before restart number `attempt` (from 0) in a row: doubling, spread by the jitter, never above the most."""
    if rules.at_once:
        attempt -= 1
    if attempt < 0:
        return 0.0
    plain = min(rules.backoff_max_s, rules.backoff_min_s * 2.0 ** min(attempt, 60))
    return min(rules.backoff_max_s, plain * (1 + rules.backoff_jitter * (2 * rng.random() - 1)))
