"""What may be wrong with a configuration. Never caught to be retried: the operator reads the sentence, and the exit code is 2."""

from __future__ import annotations

from collections.abc import Mapping

SHOWN_MAX_CHARACTERS = 120


class ConfigurationError(Exception):
    """One clear sentence for the operator."""


class InvalidSetting(ConfigurationError):
    """Values that are not allowed, alone or together. `given` maps "section.key" to its value; `demand` says what is allowed."""

    def __init__(self, given: Mapping[str, object], demand: str, sources: Mapping[str, str] | None = None) -> None:
        self.given = dict(given)
        self.demand = demand
        known = sources or {}
        parts = (f"{key} = {shown(value)}" + (f" ({known[key]})" if key in known else "") for key, value in self.given.items())
        super().__init__(f"{' with '.join(parts)}: {demand}")

    def told_with(self, sources: Mapping[str, str]) -> InvalidSetting:
        """The same error, naming where each value came from."""
        return InvalidSetting(self.given, self.demand, sources)


def shown(value: object) -> str:
    """A value as it may stand in a sentence: on one line and not endless."""
    text = repr(value)
    return text if len(text) <= SHOWN_MAX_CHARACTERS else text[: SHOWN_MAX_CHARACTERS - 3] + "..."
