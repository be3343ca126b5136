"""A parent with stub children in real processes, and ways to wait for what it does. Ends only what it started, by pid."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

CHILDREN = Path(__file__).parent / "children"
T = TypeVar("T")


def wait_for(condition: Callable[[], T], seconds: float = 15.0, what: str = "") -> T:
    """The first true value of `condition`; fails after `seconds`."""
    give_up = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        assert time.monotonic() < give_up, f"waited {seconds} s for {what or condition}"
        time.sleep(0.005)


def processes_with(token: str) -> list[int]:
    """Living processes that carry `token` in their command line."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                command = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if token.encode() in command:
                found.append(int(entry))
    return found


class Pool:
    """One parent process. `workers` lists behaviours of stub_worker, each with its argument after a blank."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run = root / "run"
        self.heard_file = root / "heard"
        self.parent: subprocess.Popen[str] | None = None

    def start(
        self,
        workers: tuple[str, ...] = ("serve",),
        broker: str | None = "serve",
        probe: tuple[str, str] | None = None,
        paths: bool = True,
        drain_timeout_s: float = 5.0,
        load_timeout_s: float = 60.0,
        stopped_max_s: float = 10.0,
        readings: str = "",
        device: str = "cpu",
        stdin: int = subprocess.DEVNULL,
        **settings: float,
    ) -> Pool:
        def child(kind: str, module: str, args: list[str], slot: int = -1) -> dict[str, Any]:
            env = {"PYTHONPATH": str(CHILDREN)}
            return {"kind": kind, "module": module, "args": args, "slot": slot, "device": device if slot >= 0 else "", "env": env}

        token = ["--token", str(self.root)]
        plan = {
            "root": str(self.run),
            "workers": [child("worker", "stub_worker", [*text.split(" ", 1), *token], slot) for slot, text in enumerate(workers)],
            "broker": child("broker", "stub_broker", [broker, *token, "--heard", str(self.heard_file)]) if broker else None,
            "probe": child("probe", "stub_probe", [*probe, str(self.root)]) if probe else None,
            "paths": paths,
            "drain_timeout_s": drain_timeout_s,
            "load_timeout_s": load_timeout_s,
            "stopped_max_s": stopped_max_s,
            "readings": readings,
            "settings": {"backoff_min_s": 0.1, "backoff_max_s": 0.5, **settings},
        }
        plan_file = self.root / f"plan{len(list(self.root.glob('plan*')))}.json"
        plan_file.write_text(json.dumps(plan))
        self.out_file = plan_file.with_suffix(".out")
        self.err_file = plan_file.with_suffix(".err")
        with self.out_file.open("w") as out, self.err_file.open("w") as err:
            command = [sys.executable, str(CHILDREN / "parent.py"), str(plan_file)]
            self.parent = subprocess.Popen(command, stdin=stdin, stdout=out, stderr=err, text=True)
        return self

    def ready(self) -> Pool:
        wait_for(lambda: "ready" in self.out_file.read_text(), what="ready")
        wait_for(lambda: all(slot["state"] == "running" for slot in self.slots()), what="all slots to run")
        return self

    def state(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((self.run / "state.json").read_text())
        except FileNotFoundError:
            return {"pool": {"state": ""}, "broker": {"pid": None}, "slots": []}
        return content

    def slots(self) -> list[dict[str, Any]]:
        slots: list[dict[str, Any]] = self.state()["slots"]
        return slots

    def slot(self, number: int = 0) -> dict[str, Any]:
        return wait_for(self.slots, what="slots")[number]

    def until_slot(self, number: int = 0, seconds: float = 15.0, **wanted: Any) -> dict[str, Any]:
        def there() -> dict[str, Any] | None:
            slot = self.slot(number)
            return slot if all(slot[name] == value for name, value in wanted.items()) else None

        found = wait_for(there, seconds, f"slot {number} to be {wanted}")
        assert found is not None
        return found

    def heard(self, kind: str) -> list[dict[str, Any]]:
        """Records of this kind that the stub broker wrote down."""
        if not self.heard_file.exists():
            return []
        records = [json.loads(line) for line in self.heard_file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [record for record in records if record["kind"] == kind]

    def command(self, *commands: tuple[str, str]) -> None:
        """Have the stub broker send these, at the next record it hears."""
        unfinished = self.root / "commands"
        unfinished.write_text(json.dumps(commands))
        unfinished.rename(str(self.heard_file) + ".commands")

    def signal(self, number: int) -> None:
        assert self.parent is not None
        self.parent.send_signal(number)

    def wait(self, seconds: float = 15.0) -> int:
        """The exit code of the parent."""
        assert self.parent is not None
        return self.parent.wait(seconds)

    def processes(self) -> list[int]:
        return processes_with(str(self.root))

    def journal(self) -> str:
        path = self.run / "logs" / "parent.log"
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        if self.parent is not None and self.parent.poll() is None:
            self.parent.kill()
            self.parent.wait(5)
        wait_for(lambda: not self.processes(), 5, "every process to be gone")


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A temporary folder with a path short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="rp-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def pool(short_dir: Path) -> Iterator[Pool]:
    made = Pool(short_dir)
    yield made
    made.close()


@pytest.fixture(name="wait_for")
def waiting() -> Callable[..., Any]:
    """`wait_for(condition, seconds, what)`."""
    return wait_for
