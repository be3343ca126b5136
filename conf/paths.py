"""Where a pool lives: its run directory, and the files and sockets in it. Names them only, never makes or opens them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .endpoints import SOCKET_PATH_MAX_BYTES, connect_address, frontend_port, is_loopback
from .errors import ConfigurationError
from .settings import Settings

__all__ = ["RunPaths", "backend_endpoint", "connect_address", "frontend_port", "is_loopback", "run_dir"]


@dataclass(frozen=True, slots=True)
class RunPaths:
    """What stands in a run directory. Raises ConfigurationError when its socket paths would be too long for the system."""

    root: Path

    def __post_init__(self) -> None:
        for socket in (self._backend, self._admin):
            length = len(os.fsencode(socket))
            if length > SOCKET_PATH_MAX_BYTES:
                raise ConfigurationError(
                    f"the socket path {socket} is {length} bytes long and the system allows {SOCKET_PATH_MAX_BYTES}: "
                    "choose a shorter folder with --run-dir"
                )

    @property
    def _backend(self) -> Path:
        return self.root / "backend.sock"

    @property
    def _admin(self) -> Path:
        return self.root / "admin.sock"

    @property
    def backend(self) -> str:
        """Address where workers of this machine connect."""
        return f"ipc://{self._backend}"

    @property
    def admin(self) -> str:
        """Address of the admin commands."""
        return f"ipc://{self._admin}"

    @property
    def state_file(self) -> Path:
        """What the parent last knew of every slot, as JSON."""
        return self.root / "state.json"

    @property
    def pid_file(self) -> Path:
        """The parent's process id."""
        return self.root / "pid"

    @property
    def lock_file(self) -> Path:
        """Locked by the parent as long as it lives."""
        return self.root / "lock"

    @property
    def logs(self) -> Path:
        """Folder of the children's logs."""
        return self.root / "logs"


def run_dir(settings: Settings, environ: Mapping[str, str], uid: int, temp_dir: str | Path) -> Path:
    """pool.run_dir, else $XDG_RUNTIME_DIR/ragpool-<frontend port>, else <temp_dir>/ragpool-<uid>-<port>.

    An ipc frontend has no port: a short hash of its path stands in its place.
    A relative XDG_RUNTIME_DIR is ignored, as its specification asks.
    """
    if settings.pool.run_dir:
        return Path(settings.pool.run_dir)
    frontend = settings.broker.frontend
    port = frontend_port(frontend)
    name = hashlib.sha256(frontend.encode()).hexdigest()[:10] if port is None else str(port)
    runtime = Path(environ.get("XDG_RUNTIME_DIR", ""))
    if runtime.is_absolute():
        return runtime / f"ragpool-{name}"
    return Path(temp_dir) / f"ragpool-{uid}-{name}"


def backend_endpoint(settings: Settings, paths: RunPaths) -> str:
    """Where the broker binds for its workers: broker.backend, else the socket in the run directory."""
    return settings.broker.backend or paths.backend
