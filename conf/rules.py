"""What a setting may hold: a rule returns the value in its one form or says what is allowed. Never looks at the machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .endpoints import parse_endpoint
from .errors import ConfigurationError

DURATION_MAX_S = 1_000_000.0
"""Eleven days: every wait must fit the milliseconds of a poll, a signed 32-bit number."""

WHOLE_MAX = 10**12
"""More of anything than one machine holds, and less than a wire integer does."""

_DEVICE = re.compile(r"auto|cpu|cuda(:(0|[1-9][0-9]{0,2}))?", re.ASCII)


class NotAllowed(ValueError):
    """The value breaks the rule. Its text, where there is one, is a closer reason than the rule's own words."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`allowed` in words, and `read`, which returns the value in its one form or raises NotAllowed."""

    allowed: str
    read: Callable[[object], object]


def whole(low: int, high: int = WHOLE_MAX) -> Rule:
    """A whole number in low..high."""

    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise NotAllowed
        return value

    return Rule(f"a whole number from {low} to {high}", read)


def number(low: float, high: float) -> Rule:
    """A finite number in low..high; a whole one is taken too."""

    def read(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise NotAllowed
        return float(value)

    return Rule(f"a number from {low:g} to {high:g}", read)


def duration(low: float = 0.001) -> Rule:
    """Seconds."""
    seconds = number(low, DURATION_MAX_S)
    return Rule(f"seconds, from {low:g} to {DURATION_MAX_S:.0f}", seconds.read)


def one_of(*words: str) -> Rule:
    """One of these words."""

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise NotAllowed
        return value

    return Rule("one of " + ", ".join(words), read)


def text(*, empty: bool = True) -> Rule:
    """Text that can be written to a file and passed to a child process."""

    def read(value: object) -> str:
        if not isinstance(value, str) or not is_text(value) or not (value or empty):
            raise NotAllowed
        return value

    return Rule("text in UTF-8" + ("" if empty else ", not empty"), read)


def switch() -> Rule:
    """true or false."""

    def read(value: object) -> bool:
        if not isinstance(value, bool):
            raise NotAllowed
        return value

    return Rule("true or false", read)


def address(*, empty: bool = False) -> Rule:
    """tcp://host:port or ipc://path."""

    def read(value: object) -> str:
        if not isinstance(value, str) or not is_text(value):
            raise NotAllowed
        if value or not empty:
            try:
                parse_endpoint(value)
            except ConfigurationError as error:
                raise NotAllowed(str(error)) from None
        return value

    return Rule("an address, tcp://host:port or ipc://path" + (", or empty" if empty else ""), read)


def devices() -> Rule:
    """Device names: a list, or a string with commas."""

    def read(value: object) -> tuple[str, ...]:
        names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
        if not isinstance(names, list | tuple) or not names:
            raise NotAllowed
        for name in names:
            if not isinstance(name, str) or not _DEVICE.fullmatch(name) or (name == "auto" and len(names) > 1):
                raise NotAllowed
        return tuple(names)

    return Rule("a list of cpu, cuda, cuda:N, or auto alone", read)


def is_text(value: str) -> bool:
    """False for NUL, and for the lone surrogates that stand for undecodable bytes of the environment and the command line."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
