"""What every child of the parent runs first: `python -m ragpool.supervisor.child --parent PID --death-fd N MODULE ARGS...`.

Before anything heavy is imported it makes sure that it dies with its parent, by two ways that do not depend on each other:
the kernel's parent-death signal, and a pipe whose other end only the parent holds. Then it becomes MODULE. It must import
next to nothing, and never anything of the package.
"""

import sys

if not getattr(sys.flags, "safe_path", False):  # Python 3.10 knows no -P: the working folder is no place to import from
    del sys.path[0]

import _thread
import ctypes
import os

PR_SET_PDEATHSIG = 1
SIGKILL = 9


def tie_to_parent(parent: int, death_fd: int) -> None:
    """From here on this process ends with its parent. If that is gone already, it ends now."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    os.set_inheritable(death_fd, False)
    _thread.start_new_thread(_die_with, (death_fd,))


def _die_with(death_fd: int) -> None:
    try:
        while os.read(death_fd, 1):
            pass
    except OSError:
        pass
    os.kill(os.getpid(), SIGKILL)


def main(argv: list[str]) -> None:
    if len(argv) < 5 or argv[0] != "--parent" or argv[2] != "--death-fd":
        sys.exit("usage: python -m ragpool.supervisor.child --parent PID --death-fd N MODULE [ARGS...]")
    tie_to_parent(int(argv[1]), int(argv[3]))

    import faulthandler
    import resource
    import runpy

    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.argv = argv[4:]
    runpy.run_module(argv[4], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
