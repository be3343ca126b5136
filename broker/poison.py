"""Bodies of requests that ended a worker while they ran alone. Sent again, they are refused at once."""

from __future__ import annotations

from hashlib import blake2b

from ..wire.messages import Request

REMEMBERED_S = 600.0
REMEMBERED_MAX = 1024


class Poison:
    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}

    def remember(self, request: Request, now: float) -> None:
        """Refuse this body for the next ten minutes; the oldest are forgotten where there are too many."""
        self._until.pop(_hash(request), None)
        self._until[_hash(request)] = now + REMEMBERED_S
        while len(self._until) > REMEMBERED_MAX:
            del self._until[next(iter(self._until))]

    def knows(self, request: Request, now: float) -> bool:
        """Costs nothing while nothing is remembered."""
        return bool(self._until) and self._until.get(_hash(request), 0.0) > now


def _hash(request: Request) -> bytes:
    return blake2b(request.body, digest_size=16, person=request.op.encode()[:16]).digest()
