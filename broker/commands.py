"""What the core tells its edge to do, and who a message came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

from ..wire.errors import Overloaded, RagpoolError
from ..wire.messages import Failure, Record, Request

CLIENT = "client"
WORKER = "worker"
PARENT = "parent"


@dataclass(frozen=True, slots=True)
class ToClient:
    """Send one record to a client; the edge may pack several of one kind into one message."""

    peer: bytes
    record: Record


@dataclass(frozen=True, slots=True)
class ToWorker:
    peer: bytes
    record: Record


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send these requests to a worker, in one message."""

    peer: bytes
    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class ToParent:
    record: Record


@dataclass(frozen=True, slots=True)
class AnswerStatus:
    """A client asked for the status: the edge adds what only it knows and replies."""

    peer: bytes
    request_id: bytes


Command = Union[ToClient, ToWorker, Dispatch, ToParent, AnswerStatus]


def failure_of(request_id: bytes, error: RagpoolError) -> Failure:
    """`error` as it travels."""
    retry_after_ms = round(error.retry_after * 1e3) if isinstance(error, Overloaded) else 0
    return Failure(request_id, error.code, error.message, retry_after_ms)
