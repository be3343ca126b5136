"""Messages for the fuzzer: good ones, and what becomes of them. Pure: a seeded generator of frames, nothing is sent here.

More than half of what it makes is right as far as the header: version, kind and the number of frames are those of the protocol,
and the header, the body, the ids, their order or the state of the session are wrong.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from random import Random
from typing import Any

import msgpack
from ragpool.wire import codec, messages
from ragpool.wire.messages import KINDS, Bye, Cancel, Failure, Heartbeat, Hello, Ping, Register, Reply, Request

Frames = list[bytes]

WHOLE = "valid"
HEADER, BODY, IDS, ORDER, STATE = "header", "body", "ids", "order", "state"
ENVELOPE = "envelope"
CATEGORIES = (WHOLE, HEADER, BODY, IDS, ORDER, STATE, ENVELOPE)

CLIENT, WORKER = "client", "worker"

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 2**64 - 1, -(2**63), 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "loading",
    "draining", "default", "status", "\x00" * 50, "é" * 2000, b"", b"\xff" * 16, [], [1, 2, 3], [[[[[]]]]], {}, {"a": {"b": {}}},
    list(range(2000)), [b"i" * 16] * 300, [b"short"], {"queue": float("nan")}, {str(n): 1.0 for n in range(40)},
    msgpack.ExtType(5, b"ext"), msgpack.Timestamp(1, 2),
)  # fmt: skip

HUGE = (0, 1, -5, 2**40, 2**63 - 1, 2**63, 2**64 - 1, -(2**63))

BYTES: tuple[bytes, ...] = (
    b"", b"\xc1", b"\x81", b"\x90", b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 5000,
    b"\x81\xa1a" * 2000, b"\xd6\xff\x00\x00\x00\x00", b"\xc7\x0c\xff" + bytes(12), b"\x81\xa1x\xa2\xed\xa0", b"\x80\x80",
    b"\x81\x01\x02", b"\x00" * 70_000,
)  # fmt: skip


class Forger:
    """Frames of one side, `CLIENT` or `WORKER`. `ids` are those that all forgers used lately, so that they meet."""

    def __init__(self, side: str, rng: Random, name: str, ids: deque[bytes]) -> None:
        self._side = side
        self._rng = rng
        self._name = name
        self.ids = ids
        ids.append(rng.randbytes(16))

    def make(self) -> tuple[Frames, str]:
        """One message, and what is wrong with it."""
        category = self._rng.choices(CATEGORIES, (20, 20, 8, 8, 8, 8, 28))[0]
        if category == WHOLE:
            return codec.encode(self._good()), category
        return getattr(self, f"_wrong_{category}")(), category

    # ---- good ones -------------------------------------------------------------------------------------------------

    def _good(self) -> Any:
        return self._from_client() if self._side == CLIENT else self._from_worker()

    def _from_client(self) -> Any:
        rng = self._rng
        draw = rng.random()
        if draw < 0.70:
            op = messages.STATUS if draw < 0.02 else rng.choice((messages.SEARCH, messages.EMBED, messages.FETCH))
            # deadlines of up to a day: what the broker keeps for them must not outlive the answer
            remaining_ms = int(10 ** rng.uniform(3.0, 7.9))
            priority = rng.choice((0, 0, 0, 0, -3, 2))
            body = rng.randbytes(rng.choice((1, 40, 300)))
            return Request(self._identity(), op, rng.randint(1, 4), 5, remaining_ms, priority, body=body)
        if draw < 0.80:
            return Cancel(rng.choice(self.ids))
        if draw < 0.90:
            return Ping(rng.choice(("", "no such epoch", self._name)))
        return Hello(self._name, rng.choice((1, 8, 64))) if draw < 0.98 else Bye()

    def _from_worker(self) -> Any:
        """Never a worker that is ready: it would be given the work of honest clients, by right."""
        rng = self._rng
        draw = rng.random()
        if draw < 0.25:
            running = tuple(rng.choice(self.ids) for _ in range(rng.randint(0, 5)))
            state = rng.choice(("loading", "draining"))
            return Register(self._name + str(rng.randint(0, 1)), state, "host", 1, max_batch=rng.randint(1, 64), running=running)
        if draw < 0.50:
            holding = tuple(rng.choice(self.ids) for _ in range(rng.randint(0, 5)))
            return Heartbeat(rng.choice(("loading", "draining")), rng.randint(0, 1000), rng.randint(0, 10**6), holding)
        if draw < 0.80:
            return Reply(self._identity(), 7, "v1", {"encode": 1.0}, (0,), rng.randbytes(20))
        return Failure(self._identity(), rng.choice(("bad_request", "no such code")), "a sentence", rng.randint(0, 500))

    def _identity(self) -> bytes:
        if self._rng.random() < 0.2:
            return self._rng.choice(self.ids)
        self.ids.append(self._rng.randbytes(16))
        return self.ids[-1]

    # ---- right as far as the header --------------------------------------------------------------------------------

    def _wrong_header(self) -> Frames:
        rng = self._rng
        frames = codec.encode(self._good())
        draw = rng.random()
        if draw < 0.6:
            header = msgpack.unpackb(frames[3])
            for _ in range(rng.randint(1, 3)):
                header[rng.choice([*header, "more", "id", "body"])] = rng.choice(ODD)
            if header.get("state") not in ("loading", "draining"):
                header.pop("state", None)  # an odd state is fine, but none may read "ready"
            if rng.random() < 0.3 and header:
                header.pop(rng.choice(list(header)))
            frames[3] = msgpack.packb(header)
        elif draw < 0.8:
            frames[3] = self._bent(frames[3])
        else:
            frames[3] = rng.choice(BYTES)
        return frames

    def _wrong_body(self) -> Frames:
        rng = self._rng
        frames = codec.encode(self._good())
        frames[4] = rng.choice((b"", rng.randbytes(3), self._bent(frames[4]), *BYTES))
        return frames

    def _wrong_ids(self) -> Frames:
        rng = self._rng
        frames = codec.encode(self._good())
        frames[2] = rng.choice((b"", b"short", bytes(16), rng.randbytes(17), rng.randbytes(5000), rng.choice(self.ids)))
        return frames

    def _wrong_order(self) -> Frames:
        """Several items: the same twice, a bad one between good ones, items of another kind, items out of step."""
        rng = self._rng
        records = [self._good() for _ in range(rng.randint(2, 12))]
        frames = codec.encode_many([record for record in records if type(record) is type(records[0])])
        items = [frames[i : i + 3] for i in range(2, len(frames), 3)]
        items += [rng.choice(items), [rng.choice(self.ids), rng.choice(BYTES), b""]]
        items += [list(codec.encode_item(record)) for record in records if type(record) is not type(records[0])]
        rng.shuffle(items)
        inner = [frame for item in items for frame in item]
        if rng.random() < 0.3:
            inner = [*inner[1:], inner[0]]
        return [*frames[:2], *inner]

    def _wrong_state(self) -> Frames:
        """Right in itself, and not for this side or not now: answers from clients, work from workers, epochs of nobody."""
        rng = self._rng
        draw = rng.random()
        if draw < 0.4:
            other = Forger(WORKER if self._side == CLIENT else CLIENT, rng, self._name, self.ids)
            return codec.encode(other._good())
        if draw < 0.6:
            return codec.encode(
                rng.choice((messages.Pong("?"), messages.Unknown(), messages.Drain(), messages.Welcome("?", "?")))
            )
        good = self._good()
        if draw < 0.8 and self._side == WORKER:
            odd = {"max_batch": rng.choice(HUGE), "pid": rng.choice(HUGE), "collection": rng.choice(("default", "nowhere"))}
            return codec.encode(replace(Register(self._name, "loading"), **odd, dtype=rng.choice(("", "int8", "float32"))))
        if isinstance(good, Request):
            odd_limits = {"items": rng.choice((0, -1, 4096, 4097)), "top_k": rng.choice((0, 1001, 2**40)), "remaining_ms": -1}
            name = rng.choice(list(odd_limits))
            return codec.encode(replace(good, **{name: odd_limits[name]}))
        return codec.encode(good)

    # ---- wrong before the header -----------------------------------------------------------------------------------

    def _wrong_envelope(self) -> Frames:
        rng = self._rng
        frames = codec.encode(self._good())
        draw = rng.random()
        if draw < 0.2:
            frames[0] = rng.choice((b"", b"RP0", b"RP2", b"RP99999", b"HTTP", rng.randbytes(40)))
        elif draw < 0.4:
            frames[1] = rng.choice((b"", b"request", b"ADMIN", b"GONE", b"SLOTS", rng.randbytes(8), *KINDS))
        elif draw < 0.6:
            del frames[rng.randrange(len(frames)) :]
        elif draw < 0.8:
            frames.insert(rng.randrange(len(frames)), rng.randbytes(rng.choice((0, 1, 16))))
        else:
            frames = [rng.randbytes(rng.choice((0, 3, 16, 200))) for _ in range(rng.randint(1, 12))]
        return frames or [b""]

    def _bent(self, data: bytes) -> bytes:
        """Cut off, lengthened, or with some of its bits turned."""
        rng = self._rng
        draw = rng.random()
        if draw < 0.3 or not data:
            return data[: rng.randint(0, len(data))]
        if draw < 0.5:
            return data + rng.randbytes(rng.randint(1, 8))
        bent = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            bent[rng.randrange(len(bent))] ^= 1 << rng.randrange(8)
        return bytes(bent)
