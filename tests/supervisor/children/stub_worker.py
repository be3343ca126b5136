"""A worker as the parent sees one: `BEHAVIOUR [ARGUMENT] TOKEN` and what the parent appends."""

import argparse
import ctypes
import faulthandler
import fcntl
import mmap
import os
import signal
import socket
import sys
import threading
import time

from ragpool.wire.codec import decode_datagram
from ragpool.wire.messages import TO_SUCCESSOR
from ragpool.wire.progress import SIZE, ProgressWriter, stamp_beat


def serve(given: argparse.Namespace) -> None:
    os.write(given.ready_fd, b"1")
    signal.pause()


def serve_version(given: argparse.Namespace) -> None:
    os.write(given.ready_fd, given.argument.encode())
    signal.pause()


def serve_once_there(given: argparse.Namespace) -> None:
    """PATH:VERSION; loads until there is such a file."""
    path, _, version = given.argument.partition(":")
    while not os.path.exists(path):
        time.sleep(0.01)
    os.write(given.ready_fd, version.encode())
    signal.pause()


def serve_first(given: argparse.Namespace) -> None:
    """PATH:VERSION:CODE; the first to make that file serves, later ones end with that code until there is PATH.mended."""
    path, version, code = given.argument.split(":")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        if not os.path.exists(path + ".mended"):
            sys.exit(print("no such device", file=sys.stderr) or int(code))
    os.write(given.ready_fd, version.encode())
    signal.pause()


def serve_alone(given: argparse.Namespace) -> None:
    """PATH:VERSION; there is room for one at a time."""
    path, _, version = given.argument.partition(":")
    room = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(room, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("loading failed: DeviceFull: the index wiki finds no room on cuda:0 now")
    os.write(given.ready_fd, version.encode())
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
    with mmap.mmap(given.progress_fd, SIZE) as shared:
        ProgressWriter(shared).start(time.monotonic_ns(), [b"q" * 16, b"r" * 16])
    os.write(given.ready_fd, b"1")
    faulthandler._sigsegv()


def run_something(given: argparse.Namespace) -> None:
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


def talk(given: argparse.Namespace) -> None:
    """Writes two MB, and then a line now and then."""
    os.write(given.ready_fd, b"1")
    for number in range(20_000):
        print(f"line number {number:06} " + "x" * 80, file=sys.stderr)
    while True:
        print("line number one more", file=sys.stderr)
        time.sleep(0.05)


def beat_on(given: argparse.Namespace, shared: object) -> None:
    """What a worker's I/O thread does."""

    def stamp() -> None:
        while True:
            stamp_beat(shared, time.monotonic_ns())
            time.sleep(0.05)

    threading.Thread(target=stamp, daemon=True).start()


def hang(given: argparse.Namespace) -> None:
    """Its heart beats, and its batch does not end."""
    shared = mmap.mmap(given.progress_fd, SIZE)
    beat_on(given, shared)
    ProgressWriter(shared).start(time.monotonic_ns(), [b"q" * 16])
    os.write(given.ready_fd, b"1")
    time.sleep(600)


def ignore_abort(given: argparse.Namespace) -> None:
    """Not even SIGABRT ends it."""
    faulthandler.disable()
    signal.signal(signal.SIGABRT, signal.SIG_IGN)
    serve(given)


def beat(given: argparse.Namespace) -> None:
    """All is well; something runs all the time, never for long."""
    shared = mmap.mmap(given.progress_fd, SIZE)
    beat_on(given, shared)
    writer = ProgressWriter(shared)
    os.write(given.ready_fd, b"1")
    while True:
        writer.start(time.monotonic_ns(), [b"q" * 16])
        time.sleep(0.05)
        writer.clear()


def hash_then_serve(given: argparse.Namespace) -> None:
    """Stamps again and again for some seconds while it loads, as one does that hashes the files of a large index."""
    shared = mmap.mmap(given.progress_fd, SIZE)
    writer = ProgressWriter(shared)
    until = time.monotonic() + float(given.argument)
    while time.monotonic() < until:
        writer.start(time.monotonic_ns(), ())
        time.sleep(0.01)
    writer.clear()
    serve(given)


def hash_for_ever(given: argparse.Namespace) -> None:
    """Stamps once, and then nothing more comes of its disk."""
    ProgressWriter(mmap.mmap(given.progress_fd, SIZE)).start(time.monotonic_ns(), ())
    time.sleep(600)


def tell_previous(given: argparse.Namespace) -> None:
    """Says how those before it ended, and fails the first time."""
    line = socket.socket(fileno=os.dup(given.ready_fd))
    try:
        while True:
            print(f"told {decode_datagram(line.recv(1 << 20, socket.MSG_DONTWAIT), TO_SUCCESSOR)}", file=sys.stderr)
    except BlockingIOError:
        print("told all", file=sys.stderr)
    if not os.path.exists(given.argument):
        with open(given.argument, "w"), mmap.mmap(given.progress_fd, SIZE) as shared:
            ProgressWriter(shared).start(time.monotonic_ns(), [b"q" * 16])
        os.write(given.ready_fd, b"1")
        os.kill(os.getpid(), signal.SIGABRT)
    serve(given)


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
