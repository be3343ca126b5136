"""The calls of one client: each becomes requests of its session, and their replies one answer. No socket, no clock, no thread.

A chunk whose request or reply is too large is halved and asked again, one whose answer makes no sense is asked again as it was, a
few times; any other failure of a chunk fails its call, and the rest of the call is cancelled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Union

from ..wire.errors import BadRequest, PoisonRequest, ProtocolError, RagpoolError, RemoteFailure, TooLarge, error_from_code
from ..wire.messages import Reply
from . import answers
from .asks import Ask
from .chunks import NOUNS, Chunk
from .session import Session
from .states import Fail, OpenSocket, Resolve, Send

_POSITION = re.compile(r"\b(queries|vectors|texts|ids)\[([0-9]{1,9})\]")
_ABOUT_THE_CHUNK = (BadRequest, TooLarge, PoisonRequest, RemoteFailure)

GARBLED_MAX = 7
"""Answers to one chunk that make no sense before its caller is told. The broker reads no bodies: garbage comes this far."""

GARBLED_PAUSE_S = 0.5
"""It is asked for again at once, as another worker may answer; then after this long, doubled each time: some 30 s in all."""


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
        """Keep what `reply` says. Raises `ProtocolError` where it does not fit."""
        self.parts[chunk.start] = answers.read(chunk, reply)
        if not self.open:
            self.finish()

    def finish(self) -> None:
        """Every chunk is answered: join the parts in the order of the call. Raises `ProtocolError` where they do not fit."""
        in_order = [item for start in sorted(self.parts) for item in self.parts[start]]
        self.result = self.ask.join(in_order)
        self.done = True

    def fail(self, error: RagpoolError) -> None:
        self.error, self.done = error, True


@dataclass(frozen=True, slots=True)
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
        pause_s = GARBLED_PAUSE_S * 2.0 ** (times - 1) if times > 1 else 0.0
        if times >= GARBLED_MAX or now + pause_s >= call.deadline:
            return False
        self._submit(call, [chunk], now, pause_s)
        return True

    def _resolve(self, command: Resolve, now: float) -> None:
        call = self._by_id.get(command.id)
        if call is None:
            return
        chunk = self._close(call, command.id)
        try:
            call.take(chunk, command.reply)
        except ProtocolError as error:
            if self._asks_again(call, chunk, now):
                return
            sentence = f"the answer does not fit the request: {error.message}"
            self._end(call, RemoteFailure(sentence, request_id=command.id.hex()), now)
            return
        if call.done:
            self._done.append(call)

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
