"""What the core is told once, at the start of one incarnation of the broker."""

from __future__ import annotations

from dataclasses import dataclass

from ..wire.messages import Welcome
from .admission import Bounds
from .liveness import Patience


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """`epoch` names this incarnation of the broker. `grace_s`: how long workers of other hosts may take to come back to it.
    `has_parent`: somebody will say which workers come, and until then nobody knows."""

    epoch: str
    server: str = ""
    bounds: Bounds = Bounds()
    patience: Patience = Patience()
    default_timeout_ms: int = 60_000
    default_top_k: int = 5
    mixed_dtypes: bool = False
    grace_s: float = 3.0
    has_parent: bool = False

    def welcome(self) -> Welcome:
        """What each peer is told when it says HELLO or REGISTER."""
        return Welcome(
            epoch=self.epoch,
            server=self.server,
            limits=self.bounds.limits,
            default_timeout_ms=self.default_timeout_ms,
            default_top_k=self.default_top_k,
            window=self.bounds.window,
        )
