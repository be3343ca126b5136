"""How a child tells its supervisor why it ended. Known to both sides; nothing else is read into an exit code."""

from __future__ import annotations

DRAINED = 0
"""It finished what it held and left because it was asked to."""

FAILURE = 1
"""An uncaught error."""

CUDA_BROKEN = 70
"""A CUDA error that stays in the process (`EX_SOFTWARE`): a fresh process is the only cure."""

AGAIN = 75
"""Start me again, and do not count this end (`EX_TEMPFAIL`): an operator asked for a restart, or memory was exhausted."""

DISMISSED = 76
"""The broker's operator drained it for good: it is not started again until somebody asks for that."""

CONFIGURATION = 78
"""No such index, model or device (`EX_CONFIG`): never retried; the last line on stderr is the sentence for the operator."""
