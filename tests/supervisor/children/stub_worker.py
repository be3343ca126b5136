"""A worker as the parent sees one: `BEHAVIOUR [ARGUMENT] TOKEN` and what the parent appends."""

import argparse
import ctypes
import faulthandler
import os
import signal
import sys
import time

from ragpool.wire.progress import SIZE, ProgressWriter


def serve(given: argparse.Namespace) -> None:
    os.write(given.ready_fd, b"1")
    signal.pause()


def fail(given: argparse.Namespace) -> None:
    print("first words\n" + given.argument.partition(":")[2], file=sys.stderr)
    sys.exit(int(given.argument.partition(":")[0]))


def serve_once(given: argparse.Namespace) -> None:
    """The first to make the marker file serves, later ones are configured wrongly."""
    try:
        os.close(os.open(given.argument, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        sys.exit(print("no such index", file=sys.stderr) or 78)
    serve(given)


def crash(given: argparse.Namespace) -> None:
    """Serves, stamps what it runs, and breaks."""
    import mmap

    with mmap.mmap(given.progress_fd, SIZE) as shared:
        ProgressWriter(shared).start(time.monotonic_ns(), [b"q" * 16, b"r" * 16])
    os.write(given.ready_fd, b"1")
    faulthandler._sigsegv()


def run_something(given: argparse.Namespace) -> None:
    import mmap

    with mmap.mmap(given.progress_fd, SIZE) as shared:
        ProgressWriter(shared).start(time.monotonic_ns(), [b"q" * 16])
        serve(given)


def hold_gil(given: argparse.Namespace) -> None:
    os.write(given.ready_fd, b"1")
    ctypes.PyDLL(None).sleep(600)


def deaf(given: argparse.Namespace) -> None:
    """Does not leave when asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    serve(given)


def load_for_ever(given: argparse.Namespace) -> None:
    time.sleep(600)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("behaviour")
    parser.add_argument("argument", nargs="?", default="")
    parser.add_argument("--token")
    parser.add_argument("--incarnation", required=True)
    parser.add_argument("--progress-fd", type=int, required=True)
    parser.add_argument("--ready-fd", type=int, required=True)
    given = parser.parse_args()
    globals()[given.behaviour](given)


if __name__ == "__main__":
    main()
