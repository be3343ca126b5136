"""What may be wrong with a corpus, an index, a model or a device: one sentence for the operator each.

Only the last two are worth a retry.
"""

from __future__ import annotations

from ..conf.errors import ConfigurationError as ConfigurationError


class CorpusError(ConfigurationError):
    """A row that cannot become a passage, or a file that cannot be read. `line` counts from 1; 0 means the file as a whole."""

    def __init__(self, file: str, line: int, reason: str, unit: str = "line") -> None:
        self.file = file
        self.line = line
        self.reason = reason
        super().__init__(f"{file}, {unit} {line}: {reason}" if line else f"{file}: {reason}")


class IndexUnusable(ConfigurationError):
    """There is no index there, or not one that this version may serve."""


class IndexDamaged(IndexUnusable):
    """What is on disk is not what the build wrote."""


class ModelUnusable(ConfigurationError):
    """No such model, or not one that fits the index."""


class DeviceUnavailable(ConfigurationError):
    """This process does not see that device, or it is too small. Nothing is ever moved to another device instead."""


class DeviceFull(Exception):
    """The device is large enough and its memory is taken now, by others or by what has just ended."""


class EncodingFailed(Exception):
    """The processes that encode are gone. What they finished is kept: the same command goes on from there."""
