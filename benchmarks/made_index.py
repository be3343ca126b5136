"""Index directories of rows that were never encoded, made by the functions that a build uses."""

from __future__ import annotations

import dataclasses
import datetime
import os
import shutil
from pathlib import Path

from ragpool.index.build_finish import tools
from ragpool.index.manifest import FORMAT, INNER_PRODUCT, CorpusFacts, Manifest, ModelIdentity
from ragpool.index.passage import Passage, pack_passage
from ragpool.index.passage_writer import PassageWriter
from ragpool.index.passages import IDS, OFFSETS, ROWS
from ragpool.index.sealed import Unsealed
from ragpool.index.staging import publish, seal
from ragpool.index.vector_files import Wanted, make_vector_files, plan_for
from ragpool.index.vectors import FULL, EncodedRows

SEED = 7
VERSION = "0123456789abcdef"
STEP = 4_096


def made_index(
    rows: Path, count: int, dim: int, out: Path, type_: str, threads: int, *, text: str = "x", like: Manifest | None = None
) -> Path:
    """An index of this type in `out` over the float32 rows in the file `rows`, each with a passage of this text. It says that its
    rows were made by the model of `like`, or by none."""
    staged = out / ".build"
    staged.mkdir(parents=True)
    os.link(rows, staged / FULL)
    passages = PassageWriter(staged)
    for first in range(0, count, STEP):
        ids = [str(row) for row in range(first, min(first + STEP, count))]
        passages.append(ids, [pack_passage(Passage(id_, "", text, {})) for id_ in ids])
    passages.finish()
    passages.close()
    wanted = Wanted(type_, 32, SEED, threads)
    plan, _ = plan_for(wanted, count, dim, {})
    made = make_vector_files(EncodedRows(staged / FULL, count, dim), plan, wanted, staged, lambda stage, done, of: None)
    if FULL in made.widths:  # sealing writes to the file
        (staged / FULL).unlink()
        shutil.copyfile(rows, staged / FULL)
    widths = {ROWS: 0, OFFSETS: 1, IDS: 2, **made.widths}
    files = seal({role: Unsealed(staged / role) for role in widths}, count, widths, VERSION)
    manifest = Manifest(
        FORMAT, VERSION, datetime.datetime.now(datetime.timezone.utc).isoformat(), made.type, made.factory, count, dim,
        INNER_PRODUCT, True, ModelIdentity("none", "0" * 64), "", "", 1, "float32", "cpu",
        CorpusFacts(("benchmark",), "", "", "", "text", 0), made.norms, tools(), files, made.search,
    )  # fmt: skip
    if like is not None:
        facts = ("model", "query_prefix", "passage_prefix", "max_length", "normalized", "dtype", "device")
        manifest = dataclasses.replace(manifest, **{name: getattr(like, name) for name in facts})
    publish(staged, out, manifest)
    return out
