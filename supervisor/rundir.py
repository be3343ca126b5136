"""The run directory: private to its user, and locked by the parent for as long as it lives. One pool per directory.

The lock is an flock, so that it ends with the parent however that ends; its descriptor is never inherited by a child.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator

from ..conf.paths import RunPaths
from ..conf.settings import ConfigurationError

_CLAIM_S = 0.3
"""Others may look at the lock for a moment (`pool_pid`): that is not a pool."""
_LOOK_AGAIN_S = 0.01


@contextlib.contextmanager
def claim(paths: RunPaths) -> Iterator[None]:
    """Hold the run directory, made if need be, mode 0700. Raises `ConfigurationError` when it is not ours to take, or taken."""
    _make_private(paths)
    try:
        lock = os.open(paths.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{paths.lock_file} cannot be opened: {error.strerror}") from None
    try:
        _lock(lock, paths)
        try:
            paths.pid_file.write_text(f"{os.getpid()}\n")
            paths.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"{paths.root} cannot be written: {error.strerror}") from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                paths.pid_file.unlink()
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def _lock(lock: int, paths: RunPaths) -> None:
    give_up = time.monotonic() + _CLAIM_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= give_up:
                pid = _read_pid(paths)
                who = f"process {pid}" if pid else "another process"
                raise ConfigurationError(f"a pool already runs in {paths.root}, held by {who}") from None
        except OSError as error:
            raise ConfigurationError(f"{paths.lock_file} cannot be locked: {error.strerror}") from None
        time.sleep(_LOOK_AGAIN_S)


def _make_private(paths: RunPaths) -> None:
    root = paths.root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            root.mkdir(mode=0o700)
        status = root.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise ConfigurationError(f"the run directory {root} is not a directory")
        if status.st_uid != os.geteuid():
            raise ConfigurationError(f"the run directory {root} belongs to another user (uid {status.st_uid})")
        if status.st_mode & 0o077:
            if not paths.lock_file.exists() and any(root.iterdir()):
                raise ConfigurationError(
                    f"the run directory {root} is open to other users and holds other things: choose a folder of its own"
                )
            root.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(f"the run directory {root} cannot be used: {error.strerror}") from None


def pool_pid(paths: RunPaths) -> int | None:
    """The process id of the parent that holds the run directory; None when nobody does, 0 when it has not said yet."""
    try:
        lock = os.open(paths.lock_file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_pid(paths) or 0
    except OSError:
        return None
    finally:
        os.close(lock)
    return None


def wait_until_released(paths: RunPaths, timeout_s: float) -> bool:
    """Wait until no parent holds the run directory; False when one still does after `timeout_s`."""
    give_up = time.monotonic() + timeout_s
    while pool_pid(paths) is not None:
        if time.monotonic() >= give_up:
            return False
        time.sleep(_LOOK_AGAIN_S)
    return True


def _read_pid(paths: RunPaths) -> int | None:
    try:
        return int(paths.pid_file.read_text())
    except (OSError, ValueError):
        return None
