"""How a child process of a build is started, so that it ends with the build however that ends."""

from __future__ import annotations

import os
import sys


def tied(death_fd: int, module: str, *args: str) -> list[str]:
    """The command of a child that runs `module` of this package. It ends when this process does, or when the other end of the
    pipe `death_fd`, which must be passed on to it, is closed."""
    safe = ["-P"] if sys.version_info >= (3, 11) else []
    launcher = [sys.executable, *safe, "-m", f"{__package__.rpartition('.')[0]}.supervisor.child"]
    return [*launcher, "--parent", str(os.getpid()), "--death-fd", str(death_fd), f"{__package__}.{module}", *args]
