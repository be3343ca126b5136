"""What the core tells its edge to do, and who a message came from."""

from __future__ import annotations

from typing import Union

from ..wire.errors import Overloaded, RagpoolError
from ..wire.messages import Failure, Record, Request
from ..wire.record import record

CLIENT = "client"
WORKER = "worker"
PARENT = "parent"


@record
class ToClient:
    """Send one record to a client; the edge may pack several of one kind into one message."""

    peer: bytes
    record: Record


@record
class ToWorker:
    peer: bytes
    record: Record


@record
class Dispatch:
    """Send these requests to a worker, in one message."""

    peer: bytes
    requests: tuple[Request, ...]


@record
class ToParent:
    record: Record


@record
class AnswerStatus:
    """A client asked for the status: the edge adds what only it knows and replies."""

    peer: bytes
    request_id: bytes


Command = Union[ToClient, ToWorker, Dispatch, ToParent, AnswerStatus]


def failure_of(request_id: bytes, error: RagpoolError) -> Failure:
    """`error` as it travels."""
    retry_after_ms = round(error.retry_after * 1e3) if isinstance(error, Overloaded) else 0
    return Failure(request_id, error.code, error.message, retry_after_ms)
