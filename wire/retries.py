"""[P] How often, and how soon, what went wrong at a worker is tried again, by the broker and by clients alike."""

from __future__ import annotations

TRIES_MAX = 7
"""Times that one request goes wrong before its client is told: with the pauses some 30 s, in which whole devices recover."""

_FIRST_PAUSE_S = 0.5


def pause_s(failures: int) -> float:
    """Seconds before who failed tries again, after so many failures: 0.5, then twice as long each time."""
    return _FIRST_PAUSE_S * 2.0 ** (failures - 1)
