"""Ask a pool: `Client` for threads, `AsyncClient` for asyncio, the hits they return, every error. Never loads torch."""

from ..wire.errors import (
    AccessDenied,
    BadRequest,
    BrokerUnreachable,
    ClientClosed,
    DeadlineExceeded,
    NoWorkers,
    Overloaded,
    PoisonRequest,
    ProtocolError,
    RagpoolError,
    RemoteFailure,
    TooLarge,
    VersionMismatch,
)
from .aio import AsyncClient
from .future import RequestFuture
from .hit import Hit, Hits, Passage
from .sync import Client

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "BadRequest",
    "BrokerUnreachable",
    "Client",
    "ClientClosed",
    "DeadlineExceeded",
    "Hit",
    "Hits",
    "NoWorkers",
    "Overloaded",
    "Passage",
    "PoisonRequest",
    "ProtocolError",
    "RagpoolError",
    "RemoteFailure",
    "RequestFuture",
    "TooLarge",
    "VersionMismatch",
]
