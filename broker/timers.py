"""Deadlines of many requests, most of which are answered long before: set, drop and expire in constant time.

A wheel of slots `resolution_s` wide (Varghese and Lauck, 1987), held in a dictionary; a heap of the slots in use finds the next.
A deadline fires at the end of its slot: never early, at most `resolution_s` late.
"""

from __future__ import annotations

import heapq
import math


class TimerWheel:
    def __init__(self, resolution_s: float = 0.005) -> None:
        self._resolution = resolution_s
        self._slots: dict[int, set[bytes]] = {}
        self._slot_of: dict[bytes, int] = {}
        self._order: list[int] = []

    def __len__(self) -> int:
        return len(self._slot_of)

    def set(self, key: bytes, when: float) -> None:
        """Fire `key` at `when`; a key has one deadline, the last one set."""
        self.drop(key)
        slot = math.ceil(when / self._resolution)
        members = self._slots.get(slot)
        if members is None:
            members = self._slots[slot] = set()
            heapq.heappush(self._order, slot)
        members.add(key)
        self._slot_of[key] = slot

    def drop(self, key: bytes) -> None:
        """Forget the deadline of `key`, if it has one."""
        slot = self._slot_of.pop(key, None)
        if slot is not None:
            members = self._slots[slot]
            members.discard(key)
            if not members:
                self._forget(slot)

    def due(self, now: float) -> list[bytes]:
        """The keys whose time has come, earliest first; they are forgotten."""
        fired: list[bytes] = []
        while self._order and self._order[0] * self._resolution <= now:
            for key in self._slots.pop(heapq.heappop(self._order), ()):
                del self._slot_of[key]
                fired.append(key)
        return fired

    def next(self) -> float | None:
        """When the next deadline fires; None without any."""
        while self._order and self._order[0] not in self._slots:
            heapq.heappop(self._order)
        return self._order[0] * self._resolution if self._order else None

    def _forget(self, slot: int) -> None:
        """An empty slot goes at once, its place in the heap when it surfaces, or when most places are such."""
        del self._slots[slot]
        if len(self._order) > 2 * len(self._slots) + 1024:
            self._order = list(self._slots)
            heapq.heapify(self._order)
