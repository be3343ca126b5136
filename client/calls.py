"""The calls of one client: each becomes requests of its session, and their replies one answer. No socket, no clock, no thread.

A chunk whose request or reply is too large is halved and asked again, one whose answer makes no sense is asked again as it was,
for some 30 s: the broker reads no bodies, and a worker's garbage comes this far. Any other failure of a chunk fails its call,
and the rest of the call is cancelled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Union

from ..wire.errors import BadRequest, PoisonRequest, ProtocolError, RagpoolError, RemoteFailure, TooLarge, error_from_code
from ..wire.messages import Reply
from ..wire.record import record
from ..wire.retries import TRIES_MAX, pause_s
from . import answers
from .asks import Ask
from .chunks import NOUNS, Chunk
from .session import Session
from .states import Fail, OpenSocket, Resolve, Send

_POSITION = re.compile(r"\b(queries|vectors|texts|ids)\[([0-9]{1,9})\]")
_ABOUT_THE_CHUNK = (BadRequest, TooLarge, PoisonRequest, RemoteFailure)


class Call:
    """One call in progress. `owner` belongs to the edge: the future that wants `result` or `error` once `done`."""

    __slots__ = ("ask", "deadline", "done", "error", "garbled", "open", "owner", "parts", "result")

    def __init__(self, ask: Ask[Any], deadline: float, owner: Any) -> None:
        self.ask = ask
        self.deadline = deadline
        self.owner = owner
        self.open: dict[bytes, Chunk] = {}
        self.parts: dict[int, answers.Part] = {}
        self.result: Any = None
        self.error: RagpoolError | None = None
        self.done = False
        self.garbled: dict[int, int] = {}

    def take(self, chunk: Chunk, reply: Reply) -> None:
        """Keep what `reply` says. Raises `ProtocolError` where it makes no sense."""
        self.parts[chunk.start] = answers.read(chunk, reply)

    def finish(self) -> None:
        """Every chunk is answered: join the parts in the order of the call. Raises `ProtocolError` where they do not fit."""
        in_order = [item for start in sorted(self.parts) for item in self.parts[start]]
        self.result = self.ask.join(in_order)
        self.done = True

    def fail(self, error: RagpoolError) -> None:
        self.error, self.done = error, True


@record
class Done:
    """`call` has its result or its error."""

    call: Call


Effect = Union[OpenSocket, Send, Done]


class Calls:
    """`ids` makes request ids: 16 bytes, never the same twice."""

    def __init__(self, session: Session, ids: Callable[[], bytes]) -> None:
        self._session = session
        self._ids = ids
        self._by_id: dict[bytes, Call] = {}
        self._done: list[Call] = []
        self.receive = session.receive
        self.handle_timer = session.handle_timer
        self.next_deadline = session.next_deadline
        self.refuse = session.refuse
        self.close = session.close

    def begin(self, call: Call, now: float) -> None:
        if call.ask.chunks:
            self._submit(call, call.ask.chunks, now)
        else:
            call.finish()
            self._done.append(call)

    def cancel(self, call: Call, now: float) -> None:
        """Nobody waits for `call`: no `Done` will come for it."""
        call.done = True
        for identity in list(call.open):
            self._close(call, identity)
            self._session.cancel(identity, now)

    def effects(self, now: float) -> list[Effect]:
        """What is to be done, in order."""
        out: list[Effect] = []
        while commands := self._session.commands(now):
            for command in commands:
                if isinstance(command, Resolve):
                    self._resolve(command, now)
                elif isinstance(command, Fail):
                    self._fail(command, now)
                else:
                    out.append(command)
        out += [Done(call) for call in self._done]
        self._done.clear()
        return out

    def _submit(self, call: Call, chunks: Iterable[Chunk], now: float, pause_s: float = 0.0) -> None:
        for behind, chunk in enumerate(chunks):
            identity = self._ids()
            self._by_id[identity] = call
            call.open[identity] = chunk
            self._session.submit(identity, chunk, call.deadline, now, behind, pause_s)

    def _asks_again(self, call: Call, chunk: Chunk, now: float) -> bool:
        """The answer to `chunk` makes no sense: True where it is asked for again, maybe after a pause."""
        times = call.garbled[chunk.start] = call.garbled.get(chunk.start, 0) + 1
        wait_s = pause_s(times) if times > 1 else 0.0  # at once: another worker may take it
        if times >= TRIES_MAX or now + wait_s >= call.deadline:
            return False
        self._submit(call, [chunk], now, wait_s)
        return True

    def _resolve(self, command: Resolve, now: float) -> None:
        call = self._by_id.get(command.id)
        if call is None:
            return
        chunk = self._close(call, command.id)
        try:
            call.take(chunk, command.reply)
        except ProtocolError as error:
            if not self._asks_again(call, chunk, now):
                self._misfit(call, command.id, error, now)
            return
        if call.open:
            return
        try:
            call.finish()
            self._done.append(call)
        except ProtocolError as error:
            self._misfit(call, command.id, error, now)

    def _misfit(self, call: Call, identity: bytes, error: ProtocolError, now: float) -> None:
        sentence = f"the answer does not fit the request: {error.message}"
        self._end(call, RemoteFailure(sentence, request_id=identity.hex()), now)

    def _fail(self, command: Fail, now: float) -> None:
        call = self._by_id.get(command.id)
        if call is None:
            return
        chunk = self._close(call, command.id)
        error = command.error
        # an error that names a position is about that item, and no smaller chunk would change it
        if isinstance(error, TooLarge) and chunk.count > 1 and not _POSITION.search(error.message):
            self._submit(call, chunk.halves(), now)
        else:
            self._end(call, placed(error, chunk, call.ask.chunks), now)

    def _end(self, call: Call, error: RagpoolError, now: float) -> None:
        self.cancel(call, now)
        call.fail(error)
        self._done.append(call)

    def _close(self, call: Call, identity: bytes) -> Chunk:
        del self._by_id[identity]
        return call.open.pop(identity)


def placed(error: RagpoolError, chunk: Chunk, chunks: Sequence[Chunk]) -> RagpoolError:
    """`error` of one chunk as an error of its call: positions count from the start of the call, or the chunk's place is named."""
    if not isinstance(error, _ABOUT_THE_CHUNK) or chunk.count == sum(each.count for each in chunks):
        return error
    if _POSITION.search(error.message):
        message = _POSITION.sub(lambda at: f"{at[1]}[{int(at[2]) + chunk.start}]", error.message, count=1)
    else:
        first, last = chunk.start, chunk.start + chunk.count - 1
        message = f"{error.message} (in {NOUNS[chunk.op]}[{first}]" + (f" to [{last}])" if last > first else ")")
    return error_from_code(error.code, message, error.request_id)
