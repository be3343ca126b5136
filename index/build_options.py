"""How an index is to be built, and what no build can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..conf.rules import is_text
from .chunks import Chunking
from .errors import ConfigurationError
from .index_types import BYTES_PER_VECTOR
from .models import DEFAULT_MODEL
from .passage import TEXT_ONLY, TITLE_AND_TEXT
from .rows import Fields
from .runtimes import AUTO


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build. `device` may name several of one kind, with commas: each gets a process of its own. Prefixes and `normalize`
    that are None are the model's own; `encode` is TITLE_AND_TEXT or TEXT_ONLY. `refine`: a compact index keeps float16 rows too.
    `for_cuda`: CUDA devices will search it, which `auto` goes by; None: if they encode it. `threads` of each process that encodes
    on a CPU: 0 = its share of the cores. A build that goes on takes the threads it was begun with, and the backend where it is
    left open. `restart`: go on from nothing."""

    model: str = DEFAULT_MODEL
    device: str = "auto"
    dtype: str = "auto"
    backend: str = AUTO
    type: str = "auto"
    bytes_per_vector: int = BYTES_PER_VECTOR
    refine: bool = True
    for_cuda: bool | None = None
    encode: str = TITLE_AND_TEXT
    fields: Fields = field(default_factory=Fields)
    chunking: Chunking = field(default_factory=Chunking)
    skip_bad: bool = False
    query_prefix: str | None = None
    passage_prefix: str | None = None
    normalize: bool | None = None
    threads: int = 0
    restart: bool = False


def check_options(options: BuildOptions) -> None:
    """Raises `ConfigurationError` for what cannot be encoded, or not be written into a manifest."""
    if options.encode not in (TITLE_AND_TEXT, TEXT_ONLY):
        raise ConfigurationError(f"cannot encode {options.encode!r}: known are {TITLE_AND_TEXT}, {TEXT_ONLY}")
    fields = options.fields
    words = {
        "query prefix": options.query_prefix,
        "passage prefix": options.passage_prefix,
        "name of a field": fields.id + fields.title + fields.text,
    }
    for what, word in words.items():
        if not is_text(word or ""):
            raise ConfigurationError(f"the {what} {word!r} is not UTF-8")
