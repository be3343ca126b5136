"""What becomes of the encoded rows: the vector files of an index type. The build hashes, seals and publishes what is made here.

Called once all rows are encoded, and again from the start where a build was killed on the way: the same rows, wish and seed make
the same files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import ConfigurationError
from .manifest import FLAT, HalfNorms
from .vectors import FULL, HALF, EncodedRows, write_half

AUTO = "auto"
TYPES = (AUTO, FLAT)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The type that was asked for. `seed` draws the sample of a type that is trained, `threads` is what it may use: both are
    recorded with the build."""

    type: str
    bytes_per_vector: int
    seed: int
    threads: int


@dataclass(frozen=True, slots=True)
class Made:
    """`widths`: for each file of the index, by its name in the folder, the values in a row, 0 where it has no rows. The others go
    into the manifest. A file that is not named here, the encoded rows among them, does not become part of the index."""

    type: str
    factory: str
    norms: HalfNorms
    widths: Mapping[str, int]


def check_type(type_: str) -> None:
    """Raises `ConfigurationError` for a type that cannot be built, before anything is read."""
    if type_ not in TYPES:
        raise ConfigurationError(f"cannot build an index of type {type_!r}: known are {', '.join(TYPES)}")


def make_vector_files(rows: EncodedRows, wanted: Wanted, folder: Path) -> Made:
    """Makes the files of the wanted type in `folder`, where `rows` are the file `f32` already. Overwrites what is left there."""
    norms = write_half(rows, folder / HALF)
    return Made(FLAT, "Flat", norms, {FULL: rows.dim, HALF: rows.dim})
