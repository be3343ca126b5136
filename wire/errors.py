"""The one error tree: what a caller of RAGPool can catch, and what travels in an ERROR message.

    RagpoolError
    ├── BadRequest            the request itself is wrong; sending it again cannot help
    │   └── ProtocolError     the bytes are not a message of this protocol
    ├── TooLarge              over a limit that WELCOME told
    ├── Overloaded            BUSY: come back after `retry_after` seconds
    ├── DeadlineExceeded      no answer within the timeout
    ├── PoisonRequest         it ended a worker that ran nothing else
    ├── NoWorkers             nobody can serve it before its deadline
    ├── BrokerUnreachable     nobody says WELCOME at that address
    ├── VersionMismatch       the peer speaks another version of the protocol
    ├── AccessDenied          the peer may not do that
    ├── RemoteFailure         a defect of ours, or a device that broke, while it was being served
    └── ClientClosed          this client was closed before the answer came; never travels

An error is told apart by whose fault it is. `retryable` says whether the same request may succeed later.
"""

from __future__ import annotations

from typing import ClassVar


class RagpoolError(Exception):
    """Base of every error. `code` is its name on the wire, `request_id` the hex id of the request, if there was one."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "", *, request_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.__dict__.copy()))


class BadRequest(RagpoolError):
    code = "bad_request"


class ProtocolError(BadRequest):
    code = "protocol_error"


class TooLarge(RagpoolError):
    code = "too_large"


class Overloaded(RagpoolError):
    """`retry_after`: seconds after which the broker expects to have room."""

    code = "overloaded"
    retryable = True

    def __init__(self, message: str = "", *, request_id: str | None = None, retry_after: float = 0.1) -> None:
        super().__init__(message, request_id=request_id)
        self.retry_after = retry_after


class DeadlineExceeded(RagpoolError):
    code = "deadline_exceeded"
    retryable = True


class PoisonRequest(RagpoolError):
    code = "poison_request"


class NoWorkers(RagpoolError):
    code = "no_workers"
    retryable = True


class BrokerUnreachable(RagpoolError):
    code = "broker_unreachable"
    retryable = True


class VersionMismatch(RagpoolError):
    code = "version_mismatch"


class AccessDenied(RagpoolError):
    code = "access_denied"


class RemoteFailure(RagpoolError):
    code = "remote_failure"
    retryable = True


class ClientClosed(RagpoolError):
    code = "client_closed"


ERRORS: dict[str, type[RagpoolError]] = {
    cls.code: cls
    for cls in (
        BadRequest,
        ProtocolError,
        TooLarge,
        Overloaded,
        DeadlineExceeded,
        PoisonRequest,
        NoWorkers,
        BrokerUnreachable,
        VersionMismatch,
        AccessDenied,
        RemoteFailure,
        ClientClosed,
    )
}


def error_from_code(code: str, message: str, request_id: str | None = None, retry_after: float | None = None) -> RagpoolError:
    """The error that `code` names. An unknown code, from a newer peer, is a `RemoteFailure` that says so."""
    cls = ERRORS.get(code)
    if cls is None:
        return RemoteFailure(f"{code}: {message}", request_id=request_id)
    if cls is Overloaded:
        return Overloaded(message, request_id=request_id, retry_after=0.1 if retry_after is None else retry_after)
    return cls(message, request_id=request_id)


def _rebuild(cls: type[RagpoolError], state: dict[str, object]) -> RagpoolError:
    error = cls.__new__(cls)
    Exception.__init__(error, state.get("message", ""))
    error.__dict__.update(state)
    return error
