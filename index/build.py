"""Corpus to index directory. Streams: memory does not grow with the corpus, but for the sorted ids (at most 26 bytes a passage)
and what an index type of its own needs.

First every row is read, checked and written as a passage, so that a bad row stops the build in its first minutes, not its last;
then the passages are encoded, shard by shard, and last the new version is put in place. Until that moment the old index serves. A
build that was killed at any moment goes on where it was when the same is asked for again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..conf import devices
from ..conf.cores import usable_cores
from .build_finish import FAISS, Finish, by_faiss, cut_trailers, encoding_tools, has_passages, read_sealed
from .build_options import BuildOptions as BuildOptions
from .build_options import check_options
from .build_passages import Progress, write_passages
from .build_state import (
    ENCODED,
    SEALED,
    STATE,
    BuildState,
    EncodedBy,
    EncodedShards,
    ReadPassages,
    agree,
    digest,
    read_passages,
    read_state,
    told_tools,
    write_json,
)
from .chunks import Cut, cut_by_tokens
from .corpus import Row, corpus_files, read_corpus, told_name
from .demo import SOURCE, demo_fingerprint, demo_index_dir, demo_rows
from .encoders import EncoderProcesses, Encoders, OneEncoder, Tell
from .errors import ConfigurationError, IndexUnusable
from .hub import model_folder
from .manifest import CorpusFacts, Manifest
from .models import recorded_name
from .runtimes import AUTO
from .shards import Work, digest_of, prepare
from .staging import Staging, clear, publish, staging
from .store import open_index
from .vector_files import Wanted, announce, check_type, plan_for

if TYPE_CHECKING:
    from .encoder import Encoder

ENCODING = "encoding"

_SHARD_ROWS = {"cpu": 512, "cuda": 8_192}
"""Passages of a shard: sorted by length and encoded at once, and lost at most by each process when a build is killed."""


@dataclass(frozen=True, slots=True)
class Built:
    """A new index in `path`; the first few sentences about rows that were skipped."""

    path: Path
    manifest: Manifest
    skipped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is read: its names for the manifest, something that changes when its content may have, and its rows."""

    sources: tuple[str, ...]
    identity: object
    rows: Callable[[Cut | None], Iterator[Row]]


def build_index(
    corpus: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    options: BuildOptions = BuildOptions(),  # noqa: B008 - frozen
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> Built:
    """Builds the index of the files and folders in `corpus`; `tell` hears sentences on what is not as usual.

    Raises `CorpusError`, `ModelUnusable`, `DeviceUnavailable`, `EncodingFailed` or `ConfigurationError`; whatever it raises, an
    index that is in `out` already stays as it is.
    """
    stamps = [_stamp(path, root) for path, root in corpus_files(corpus)]
    sources = tuple(told_name(Path(path).resolve().name) for path in corpus)
    read = Corpus(sources, stamps, lambda cut: read_corpus(corpus, options.fields, cut))
    return _build(read, Path(out), options, progress or _silent, tell or _unheard)


def _stamp(path: Path, root: Path) -> tuple[str, str, int, int, int]:
    """Changes when what is read from a file may: ids of documents are told from the name below `root`."""
    found = path.stat()
    return str(path.resolve()), path.relative_to(root).as_posix(), found.st_size, found.st_mtime_ns, found.st_ctime_ns


def build_demo(
    out: str | os.PathLike[str],
    options: BuildOptions = BuildOptions(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> Built:
    """The index of the built-in demo corpus in `out`: built, unless it is there already. Waits for a build that is under way."""
    read = Corpus((SOURCE,), demo_fingerprint(), lambda cut: demo_rows())
    return _build(read, Path(out), options, progress or _silent, _unheard, demo=True)


def ensure_demo_index(progress: Progress | None = None, device: str = "auto") -> Path:
    """The folder of the demo index, built if it is not there yet; waits for a build that is already under way."""
    return build_demo(demo_index_dir(), BuildOptions(device=device), progress).path


def load(options: BuildOptions, device: str, threads: int) -> tuple[Encoder, EncodedBy]:
    """The encoder of a process that encodes on `device` with `threads` threads, and what it is. Raises as `load_encoder`."""
    encoder = _encoder(dataclasses.replace(options, device=device, threads=threads))
    by = EncodedBy(
        model=encoder.model,
        fingerprint=encoder.fingerprint,
        settings=encoder.settings,
        dim=encoder.dim,
        max_length=encoder.max_length,
        normalize=encoder.normalize,
        query_prefix=encoder.prefixes.query,
        passage_prefix=encoder.prefixes.passage,
        encode=options.encode,
        device=encoder.device.partition(":")[0],
        dtype=encoder.dtype,
        backend=encoder.backend,
        tools=encoding_tools(),
    )
    return encoder, by


def _build(corpus: Corpus, out: Path, options: BuildOptions, progress: Progress, tell: Tell, demo: bool = False) -> Built:
    check_options(options)
    with staging(out, wait=demo) as staged:
        present = _present_demo(out, options) if demo else None
        if present is not None:
            return Built(out, present, ())
        if options.restart:
            clear(staged.folder)
        earlier = read_state(staged.folder)
        names = _devices(options.device)
        if earlier and options.backend == AUTO:
            options = dataclasses.replace(options, backend=earlier.by.backend)
        threads = earlier.threads if earlier else options.threads or max(1, usable_cores() // len(names))
        with contextlib.closing(_encoders(names, threads, options, staged, tell)) as encoders:
            check_type(options.type, options.bytes_per_vector, encoders.by.dim)
            part_threads = earlier.part_threads if earlier else usable_cores()
            state, told = agree(earlier, BuildState(encoders.by, threads, _SHARD_ROWS[encoders.by.device], part_threads), out)
            if told:
                tell(told)
                (staged.folder / ENCODED).unlink(missing_ok=True)
            write_json(staged.folder / STATE, dataclasses.asdict(state))
            read, manifest = _made(corpus, state, encoders, options, staged.folder, progress, tell)
        publish(staged.folder, out, manifest)
    return Built(out, manifest, read.sentences)


def _made(
    corpus: Corpus, state: BuildState, encoders: Encoders, options: BuildOptions, folder: Path, progress: Progress, tell: Tell
) -> tuple[ReadPassages, Manifest]:
    """Everything but the last step: all files are complete. Each part is made now unless it was. The encoders are closed once
    all rows are there: what is made of them has their memory and cores."""
    reading = _reading(corpus, state, options)
    read = read_passages(folder, reading)
    if read is not None:
        manifest = read_sealed(folder, _finish(corpus, state, read, options, folder).key)
        if manifest is not None:
            return read, dataclasses.replace(manifest, model=state.by.identity())
    (folder / SEALED).unlink(missing_ok=True)  # files that it tells of are written to from here on
    if read is None or not has_passages(folder):
        chunking = options.chunking
        cut = cut_by_tokens(chunking, model_folder(options.model), state.by.max_length) if chunking.tokens else None
        read = write_passages(corpus.rows(cut), folder, reading, options.encode, options.skip_bad, progress)
    wanted = _wanted(options, state)
    plan, planned = plan_for(wanted, read.count, state.by.dim, state.planned)
    planned, before = {**planned, FAISS: by_faiss(plan.type)}, state.planned.get(FAISS)
    if before and planned[FAISS] and before != planned[FAISS]:
        tell(
            f"the build was begun with {told_tools(before)}: what faiss makes of the rows is made by {told_tools(planned[FAISS])}"
        )
    write_json(folder / STATE, dataclasses.asdict(dataclasses.replace(state, planned=planned)))
    announce(plan, wanted, read.count, state.by.dim, tell)
    _encode(encoders, state, read, folder, progress, tell)
    encoders.close()
    finish = _finish(corpus, state, read, options, folder)
    return read, finish.seal(plan, datetime.datetime.now(datetime.timezone.utc), progress)


def _devices(wanted: str) -> tuple[str, ...]:
    """The devices to encode on, a process each. "auto" is left to the process where there are not several."""
    names = tuple(name.strip() for name in wanted.split(","))
    found = devices.resolve(names, os.environ)
    if len({name.partition(":")[0] for name in found}) > 1:
        raise ConfigurationError(f"the devices of a build are all of one kind, and {wanted} are not")
    return found if len(found) > 1 else names


def _encoders(names: tuple[str, ...], threads: int, options: BuildOptions, staged: Staging, tell: Tell) -> Encoders:
    if len(names) == 1:
        return OneEncoder(*load(options, names[0], threads))
    given = ("model", "dtype", "backend", "encode", "query_prefix", "passage_prefix", "normalize")
    return EncoderProcesses(names, {name: getattr(options, name) for name in given}, threads, (staged.lock_fd,), tell)


def _reading(corpus: Corpus, state: BuildState, options: BuildOptions) -> str:
    """Identifies the files, how they are read, and what cuts them."""
    how = [options.encode, options.skip_bad, dataclasses.asdict(options.fields), dataclasses.asdict(options.chunking)]
    cut_by = [state.by.fingerprint, state.by.settings] if options.chunking.tokens else []
    return digest([corpus.identity, how, state.by.tools["ragpool"], cut_by])


def _finish(corpus: Corpus, state: BuildState, read: ReadPassages, options: BuildOptions, folder: Path) -> Finish:
    fields = options.fields
    facts = CorpusFacts(corpus.sources, fields.id, fields.title, fields.text, options.encode, read.skipped)
    return Finish(folder, state, read, _wanted(options, state), facts)


def _wanted(options: BuildOptions, state: BuildState) -> Wanted:
    for_cuda = state.by.device == "cuda" if options.for_cuda is None else options.for_cuda
    return Wanted(options.type, options.bytes_per_vector, state.seed, state.part_threads, options.refine, for_cuda)


def _encode(encoders: Encoders, state: BuildState, read: ReadPassages, folder: Path, progress: Progress, tell: Tell) -> None:
    """Encodes the shards that are not on disk yet."""
    work = Work(str(folder), read.count, state.by.dim, state.shard_rows, state.by.encode)
    cut_trailers(work)
    prepare(work)
    with EncodedShards(folder, state.key(read.sha256)) as shards:
        if shards.thrown_away:
            tell(f"{shards.thrown_away} encoded shards are thrown away: the passages changed")
        shards.keep([shard for shard, found in shards.found.items() if digest_of(work, shard) == found.digest])
        done = sum(len(work.rows(shard)) for shard in shards.found)
        if done:
            tell(f"going on: {done:,} of {work.count:,} passages are encoded already")
        progress(ENCODING, done, work.count)
        missing = [shard for shard in range(work.shards) if shard not in shards.found]
        for shard, found in encoders.encode(work, missing):
            shards.add(shard, found)
            done += len(work.rows(shard))
            progress(ENCODING, done, work.count)


def _encoder(options: BuildOptions) -> Encoder:
    import torch

    from .encoder import load_encoder

    torch.set_num_threads(options.threads)  # before the model is loaded: what runs it may depend on them
    return load_encoder(
        options.model,
        options.device,
        options.dtype,
        backend=options.backend,
        query_prefix=options.query_prefix,
        passage_prefix=options.passage_prefix,
        normalize=options.normalize,
    )


def _present_demo(out: Path, options: BuildOptions) -> Manifest | None:
    """The manifest of the demo index in `out`, if there is one for this Python and this model."""
    try:
        manifest = open_index(out).manifest
    except IndexUnusable:
        return None
    same = manifest.corpus.sources == (SOURCE,) and manifest.tools.get("python") == encoding_tools()["python"]
    return manifest if same and manifest.model.name == recorded_name(options.model) else None


def _silent(stage: str, done: int, total: int | None) -> None:
    pass


def _unheard(sentence: str) -> None:
    pass
