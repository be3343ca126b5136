"""Where a build writes, and how its files become the index: all at once, when the manifest is replaced.

One build at a time writes to a folder (by a lock file). Until the manifest is in place the old index serves; a build that was
killed leaves a staging folder, which the same build goes on with, and perhaps files that no manifest names, which it takes over
or removes. Nothing else is touched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .build_state import PASSAGES, SEALED
from .errors import ConfigurationError, IndexDamaged, IndexUnusable
from .manifest import (
    FILE_NAME,
    FORMAT,
    KEPT_NAME,
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    kept_name,
    parse_manifest,
    read_text,
    sync_folder,
    write_manifest,
)
from .passages import IDS, OFFSETS, ROWS
from .sealed import Unsealed, check_sealed, is_free

STAGING = ".build"
LOCK = ".build.lock"
_MADE = "made"
"""In the staging folder: a build made the folder around it."""

_FIELDS = frozenset(field.name for field in dataclasses.fields(Manifest))


@dataclass(frozen=True, slots=True)
class Staging:
    """The folder that a build writes to, and the descriptor whose lock says that somebody does: children that write there hold
    it too."""

    folder: Path
    lock_fd: int


@contextlib.contextmanager
def staging(out: Path, wait: bool = False) -> Iterator[Staging]:
    """Where the next version of the index `out` is built. What an earlier build left there stays, for this one to go on with;
    it is removed at the end, unless this one too leaves something to go on with.

    Raises `ConfigurationError` where `out` cannot be written to or holds a manifest.json that is not to be replaced, or another
    build is at it and `wait` is false.
    """
    _check_replaceable(out)
    with _locked(out, wait) as made:
        folder = out / STAGING
        made = made or (folder / _MADE).exists()
        try:
            with _held(folder) as lock_fd:
                if made:
                    (folder / _MADE).touch()
                if not (folder / SEALED).exists():
                    remove_unnamed(out)
                yield Staging(folder, lock_fd)
        finally:
            with contextlib.suppress(OSError):  # what ended the build is told, not what was in the way of tidying up
                _tidy(out, made)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[int]:
    """The descriptor of a folder, made if need be, that is locked: processes of a build that was killed are about to end."""
    try:
        folder.mkdir(exist_ok=True)
        lock_fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unwritable(folder.parent, error) from None
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX)
        yield lock_fd
    finally:
        os.close(lock_fd)


def _tidy(out: Path, made: bool) -> None:
    """Removes what nothing can go on with; where a build came to nothing and `made` the folder `out`, that too. The lock is still
    held."""
    if not (out / STAGING / PASSAGES).exists():
        shutil.rmtree(out / STAGING, ignore_errors=True)
    if os.listdir(out) == [LOCK]:
        (out / LOCK).unlink()
        if made:
            out.rmdir()


def _check_replaceable(out: Path) -> None:
    """Raises `ConfigurationError` where the manifest.json in `out` is another program's, or of an index of another format. One of
    ours may be damaged: it has most of our fields, or is no JSON any more and lies beside our files."""
    path = out / MANIFEST_NAME
    if not os.path.exists(path):
        return
    fields: object = None
    try:
        fields = json.loads(read_text(out))
        ours = isinstance(fields, dict) and 2 * len(_FIELDS & fields.keys()) > len(_FIELDS)
    except (IndexDamaged, ValueError, RecursionError):
        ours = any(FILE_NAME.fullmatch(found.name) for found in out.iterdir())
    if not ours:
        raise ConfigurationError(f"{path} is not the manifest of an index: build into another folder, or remove it")
    found_format = fields.get("format") if isinstance(fields, dict) else FORMAT
    if type(found_format) is int and found_format != FORMAT:
        raise ConfigurationError(
            f"the index {out} has format {found_format} and this version builds format {FORMAT}: build into another folder"
        )


def _unwritable(out: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"cannot write an index to {out}: {error.strerror or error}")


@contextlib.contextmanager
def _locked(out: Path, wait: bool) -> Iterator[bool]:
    """Holds the lock file of `out`; whether it had to make the folder for it."""
    while True:
        try:
            made = not out.exists()
            out.mkdir(parents=True, exist_ok=True)
            lock = open(out / LOCK, "ab")  # noqa: SIM115 - held below
        except OSError as error:
            raise _unwritable(out, error) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigurationError(f"another build is writing to {out}") from None
            if os.fstat(lock.fileno()).st_nlink:  # else whoever held it has removed it
                yield made
                return


def clear(folder: Path) -> None:
    """Removes what an earlier build left to go on with."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def seal(unsealed: Mapping[str, Unsealed], rows: int, widths: Mapping[str, int], version: str) -> dict[str, FileEntry]:
    """Ends the files of a version; its `files` for the manifest."""
    entries = {}
    for role, file in unsealed.items():
        size, sha256 = file.seal(role, rows, widths[role], version)
        entries[role] = FileEntry(file_name(role, version), size, sha256)
    return entries


def file_name(role: str, version: str) -> str:
    """`vectors-<version>.<role>` or `passages-<version>.<role>`."""
    return f"{'passages' if role in (ROWS, OFFSETS, IDS) else 'vectors'}-{version}.{role}"


def publish(staged: Path, out: Path, manifest: Manifest) -> None:
    """Moves the sealed files into place and then the manifest, which is the commit; removes what is left of the build, and older
    versions that nobody has open any more. After a kill it is done again: a file that is not in `staged` was moved before.

    Raises `IndexDamaged` where a file does not end as the one that the manifest names: then nothing is moved, for a file of the
    same name may be served, and the next build makes all of them again; `ConfigurationError` where a manifest.json that is not to
    be replaced has come since the build began."""
    _check_replaceable(out)
    try:
        for role, entry in manifest.files.items():
            lies = staged / role if (staged / role).exists() else out / entry.name
            check_sealed(lies, role, manifest.version, entry.size)
    except IndexDamaged as error:
        (staged / SEALED).unlink(missing_ok=True)
        raise IndexDamaged(f"the index {out} stays as it was: {error}; say the same command again") from None
    for role, entry in manifest.files.items():
        with contextlib.suppress(FileNotFoundError):
            os.replace(staged / role, out / entry.name)
    _keep_manifest(out, manifest.version)
    sync_folder(out)
    write_manifest(out, manifest)
    shutil.rmtree(staged, ignore_errors=True)
    remove_unnamed(out)


def _keep_manifest(out: Path, version: str) -> None:
    """The manifest that `version` is about to replace stays: while workers serve its files another may have to load them
    again."""
    try:
        text = (out / MANIFEST_NAME).read_text(encoding="utf-8")
        before = parse_manifest(text, str(out)).version
    except (IndexUnusable, OSError, UnicodeDecodeError):
        return  # there was none that anybody could load
    if before != version:
        draft = out / f".{MANIFEST_NAME}.{os.getpid()}"
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, out / kept_name(before))


def remove_unnamed(out: Path) -> None:
    """Removes files of versions that the manifest does not name and that nobody has open, and the copy that was kept of the
    manifest while another had replaced it. Wants the build lock to be held."""
    try:
        manifest = parse_manifest((out / MANIFEST_NAME).read_text(encoding="utf-8"), str(out))
        version = manifest.version
    except FileNotFoundError:
        version = ""
    except (IndexUnusable, OSError, UnicodeDecodeError):
        return  # not ours to judge: a newer format, or damaged
    groups: dict[str, list[Path]] = {}
    for path in out.iterdir():
        name = FILE_NAME.fullmatch(path.name) or KEPT_NAME.fullmatch(path.name)
        if name and name[1] != version:
            groups.setdefault(name[1], []).append(path)
        elif path.name == kept_name(version) or path.name.startswith(f".{MANIFEST_NAME}."):
            path.unlink(missing_ok=True)
    for paths in groups.values():
        if all(is_free(path) for path in paths):
            for path in paths:
                path.unlink(missing_ok=True)
