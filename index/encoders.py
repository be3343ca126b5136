"""Who encodes the shards of a build: this process on one device, or one process for each of several.

A process that is lost gives its shards back, and the others go on; they end with this process, however that ends. What they are
told and what they report are JSON lines over two pipes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..conf.cores import thread_environment
from .build_state import EncodedBy, EncodedShard
from .children import tied
from .errors import ConfigurationError, DeviceFull, EncodingFailed
from .shards import Work, encode_shard

if TYPE_CHECKING:
    from .encoder import Encoder

Tell = Callable[[str], None]

_AHEAD = 2
"""Shards a process is given at a time, so that it never waits for the next."""

_END_S = 10.0
"""Seconds that a process which closed its pipe has to end."""


class Encoders(Protocol):
    """`by` says what encodes, and how. `encode` yields each shard once its rows are on disk, in any order."""

    by: EncodedBy

    def encode(self, work: Work, shards: Sequence[int]) -> Iterator[tuple[int, EncodedShard]]: ...

    def close(self) -> None: ...


class OneEncoder:
    """Encodes in this process."""

    def __init__(self, encoder: Encoder, by: EncodedBy) -> None:
        self.by = by
        self._encoder: Encoder | None = encoder

    def encode(self, work: Work, shards: Sequence[int]) -> Iterator[tuple[int, EncodedShard]]:
        for shard in shards:
            if self._encoder is None:
                raise ValueError("these encoders are closed")
            yield shard, encode_shard(self._encoder, work, shard)

    def close(self) -> None:
        self._encoder = None


class EncoderProcess:
    """One process with its own encoder on `device`. `shards`: what it was given and has not reported."""

    def __init__(self, device: str, options: Mapping[str, Any], threads: int, held: Sequence[int]) -> None:
        self.device = device
        self.shards: list[int] = []
        self._torn = b""
        death_fd, self._life_fd = os.pipe()
        self.report_fd, report_fd = os.pipe()
        try:
            self.process = subprocess.Popen(
                tied(death_fd, "encode_main", str(report_fd)),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **thread_environment(threads), "TOKENIZERS_PARALLELISM": "true"},
                pass_fds=(death_fd, report_fd, *held),
                start_new_session=True,
            )
        finally:
            os.close(death_fd)
            os.close(report_fd)
        self.tell({"options": options, "device": device, "threads": threads})

    def tell(self, message: Mapping[str, Any]) -> None:
        """Says something to it. That it is gone shows at the other pipe."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(json.dumps(message).encode() + b"\n")
                self.process.stdin.flush()

    def give(self, shard: int) -> None:
        self.shards.append(shard)
        self.tell({"shard": shard})

    def reports(self) -> list[dict[str, Any]] | None:
        """What it has reported by now, at least one thing; None once it is gone. Raises the `ConfigurationError` or `DeviceFull`
        that it reports."""
        while not (lines := self._read_lines()):
            if lines is None:
                return None
        reports = [json.loads(line) for line in lines]
        for report in reports:
            if "error" in report:
                raise ConfigurationError(report["error"])
            if "full" in report:
                raise DeviceFull(report["full"])
        return reports

    def end(self, grace_s: float = 0.0) -> str:
        """Ends it, unless it ends by itself within `grace_s`; how it ended."""
        try:
            code = self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        for descriptor in (self.report_fd, self._life_fd):
            os.close(descriptor)
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def _read_lines(self) -> list[bytes] | None:
        data = os.read(self.report_fd, 1 << 16)
        if not data:
            return None
        *lines, self._torn = (self._torn + data).split(b"\n")
        return lines


class EncoderProcesses:
    """Encodes in one process for each of `devices`, all of one kind. Descriptors `held` stay open as long as one lives."""

    def __init__(self, devices: Sequence[str], options: Mapping[str, Any], threads: int, held: Sequence[int], tell: Tell) -> None:
        self._tell = tell
        self._processes: list[EncoderProcess] = []
        try:
            for device in devices:
                self._processes.append(EncoderProcess(device, options, threads, held))
            self.by = self._agreed()
        except BaseException:
            self.close()
            raise

    def encode(self, work: Work, shards: Sequence[int]) -> Iterator[tuple[int, EncodedShard]]:
        """Raises `EncodingFailed` where no process is left."""
        waiting = deque(shards)
        with selectors.DefaultSelector() as selector:
            for process in self._processes:
                selector.register(process.report_fd, selectors.EVENT_READ, process)
                process.tell({"work": dataclasses.asdict(work)})
            self._share(waiting)
            while any(process.shards for process in self._processes):
                for key, _ in selector.select():
                    process = key.data
                    reports = process.reports()
                    if reports is None:
                        selector.unregister(process.report_fd)
                        self._lose(process, waiting)
                    for report in reports or ():
                        process.shards.remove(report["shard"])
                        yield report["shard"], EncodedShard(**report["encoded"])
                self._share(waiting)

    def close(self) -> None:
        for process in self._processes:
            process.end()
        self._processes.clear()

    def _agreed(self) -> EncodedBy:
        found = []
        for process in self._processes:
            reports = process.reports()
            if reports is None:
                self._processes.remove(process)
                raise EncodingFailed(
                    f"the process that was to encode on {process.device} {process.end(_END_S)} before it was ready"
                )
            found.append(EncodedBy(**reports[0]["by"]))
        if any(by != found[0] for by in found):
            raise ConfigurationError(f"the devices do not encode alike: {'; '.join(by.told_how() for by in found)}")
        return found[0]

    def _share(self, waiting: deque[int]) -> None:
        """A shard each, as long as somebody has too few."""
        for some in range(1, _AHEAD + 1):
            for process in self._processes:
                if waiting and len(process.shards) < some:
                    process.give(waiting.popleft())

    def _lose(self, process: EncoderProcess, waiting: deque[int]) -> None:
        self._processes.remove(process)
        waiting.extendleft(reversed(process.shards))
        told = f"the process that encodes on {process.device} (pid {process.process.pid}) {process.end(_END_S)}"
        if not self._processes:
            raise EncodingFailed(f"{told}, the last one there was: the same command goes on from here")
        self._tell(f"{told}: the others go on")
