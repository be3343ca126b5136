"""The future that `Client.submit` gives. It is never marked running, so that it can be cancelled until its answer is there."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import TypeVar

from .calls import Call

T = TypeVar("T")


class RequestFuture(Future[T]):
    """The answer to come. `cancel` works until the answer is there, also when the request was sent: the broker drops it."""

    def __init__(self, keep: object) -> None:
        """`keep` stays alive as long as this future: the client that it waits for."""
        super().__init__()
        self._keep = keep
        self._cancel: Callable[[], None] | None = None
        self._cancel_seen = False

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if cancelled and self._cancel is not None:
            self._cancel()
        return cancelled

    def on_cancel(self, action: Callable[[], None]) -> None:
        self._cancel = action

    # ---- for the I/O thread alone ---------------------------------------------------------------------------------------

    def answer(self, call: Call) -> None:
        """Take what `call` came to; a future that was cancelled meanwhile only learns that this was seen."""
        try:
            if call.error is not None:
                self.set_exception(call.error)
            else:
                self.set_result(call.result)
        except InvalidStateError:
            self.see_cancel()

    def see_cancel(self) -> None:
        """`wait` and `as_completed` learn of a cancelled future by this, which may be said only once."""
        if self.cancelled() and not self._cancel_seen:
            self._cancel_seen = True
            self.set_running_or_notify_cancel()


def settle(call: Call) -> None:
    """Hand the answer of `call` to its future, and forget the future: no cycles for the collector."""
    future, call.owner = call.owner, None
    if isinstance(future, RequestFuture):
        future.answer(call)


def settle_cancelled(call: Call) -> None:
    future, call.owner = call.owner, None
    if isinstance(future, RequestFuture):
        future.see_cancel()
