"""Whether faiss can do all that a build wants of a factory string: train, add, write, read, search. A few hundred random rows, in
a process of its own: faiss ends a process with some strings that it takes.

It costs a second or two, before anything is read. What is too large to be tried is taken as it is.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import Any

import numpy as np

from ..conf.cores import thread_environment
from .children import tied
from .errors import ConfigurationError
from .faiss_files import effort_of, from_factory, import_faiss, innermost, read_mapped, reason, set_effort, shape_of

SECONDS = 10.0
"""Then it is slow, not wrong."""

_ROWS = 400
_ROWS_MAX = 4_096
_LISTS = 4
_FOUND = 10
_REFUSED = 3
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)


def check_factory(factory: str, dim: int, seconds: float = SECONDS) -> None:
    """Raises `ConfigurationError` where no index of rows of `dim` values can be made, stored and searched by a factory string."""
    death_fd, life_fd = os.pipe()
    try:
        command = tied(death_fd, "faiss_trial", factory, str(dim))
        environ = {**os.environ, **thread_environment(1)}
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        done = subprocess.run(command, **pipes, timeout=seconds, env=environ, pass_fds=(death_fd,), check=False, text=True)
    except subprocess.TimeoutExpired:
        return
    finally:
        os.close(death_fd)
        os.close(life_fd)
    if done.returncode == _REFUSED:
        raise ConfigurationError(f"faiss makes no index of {factory!r} that can be built and searched: {done.stdout.strip()}")
    if -done.returncode in _CRASHES:
        name = signal.Signals(-done.returncode).name
        raise ConfigurationError(f"faiss ends the process that builds an index of {factory!r} ({name}): take another type")


def smaller(factory: str) -> str:
    """The same kind of index with few lists: how many there are decides what it costs, not whether it can be made."""
    return re.sub(r"IVF(\d+)([kM]?)", lambda found: f"IVF{_LISTS if found[2] else min(int(found[1]), _LISTS)}", factory)


def attempt(factory: str, dim: int) -> None:
    """Makes, stores, reads and searches an index of random rows. Raises what faiss raises, or ends as faiss does."""
    from .faiss_fill import fill, train

    faiss = import_faiss()
    count = max(_ROWS, dim, shape_of(factory, dim).least)
    if count > _ROWS_MAX:
        return
    rows = np.random.default_rng(0).standard_normal((count, dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index = from_factory(factory, dim)
    _hasten(faiss, index)
    train(index, rows, np.arange(count), 0, opq=(1, 1, 1, count))
    fill(index, rows, lambda stage, done, of: None)
    again = read_mapped(faiss.serialize_index(index), "what faiss wrote")
    set_effort(again, effort_of(again), _FOUND)
    found = again.search(rows[:_FOUND], _FOUND)[1]
    if again.ntotal != count or (found[:, 0] < 0).any() or found.max() >= count:
        raise RuntimeError(f"of {count} rows that were added it holds {again.ntotal}, and not all searches find one")


def _hasten(faiss: Any, index: Any) -> None:
    """Leaves out what takes long and fails for no string: rounds of clustering, and the order of codes that polysemous search
    wants."""
    coded = faiss.downcast_index(faiss.try_extract_index_ivf(index) or innermost(index))
    if hasattr(coded, "pq"):
        coded.pq.cp.niter = 1
    if hasattr(coded, "do_polysemous_training"):
        coded.do_polysemous_training = False


def main(factory: str, dim: int) -> int:
    try:
        attempt(smaller(factory), dim)
    except MemoryError:
        return 0
    except Exception as error:  # whatever faiss' own wrappers raise: it is what the build would end with
        print(reason(error))
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
