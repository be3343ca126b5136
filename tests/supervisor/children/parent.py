"""A parent made from a JSON file: claims the run directory, runs the supervisor, says what it hears."""

import json
import os
import sys
import time
from pathlib import Path

from ragpool.conf.paths import RunPaths
from ragpool.conf.settings import ConfigurationError, SupervisorSettings
from ragpool.supervisor import loop, rundir
from ragpool.supervisor.aims import Aim
from ragpool.supervisor.device_memory import Reading
from ragpool.supervisor.loop import Supervisor
from ragpool.supervisor.process import ChildSpec


def spec(fields: dict) -> ChildSpec:
    return ChildSpec(**{**fields, "args": tuple(fields["args"])})


class ReadingsFile:
    """Readings of every device from a file of JSON: {"used", "by_pid"}, taken now."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def reading(self, device: str) -> Reading | None:
        if not self._path.exists():
            return None
        told = json.loads(self._path.read_text())
        return Reading(time.monotonic(), told["used"], 1000, {int(pid): held for pid, held in told["by_pid"].items()})


def main() -> int:
    plan = json.loads(Path(sys.argv[1]).read_text())
    paths = RunPaths(Path(plan["root"]))

    def say(word: str, address: str) -> None:
        print(word, address, flush=True)

    def make(slot: int, aim: Aim) -> ChildSpec:
        """A worker serves its first words, or what the folder that it is to serve says instead."""
        fields = {**plan["workers"][slot if slot < len(plan["workers"]) else 0], "slot": slot}
        if aim.index != "first":
            behaviour, _, argument = Path(aim.folder).read_text().partition(" ")
            fields["args"] = [behaviour, argument, *fields["args"][-2:]]
        return spec(fields)

    if plan["readings"]:
        loop.start_readings = lambda devices: ReadingsFile(Path(plan["readings"]))
    supervisor = Supervisor(
        [spec(worker) for worker in plan["workers"]],
        settings=SupervisorSettings(**plan["settings"]),
        broker=spec(plan["broker"]) if plan["broker"] else None,
        probe=spec(plan["probe"]) if plan["probe"] else None,
        paths=paths if plan["paths"] else None,
        drain_timeout_s=plan["drain_timeout_s"],
        load_timeout_s=plan["load_timeout_s"],
        stopped_max_s=plan["stopped_max_s"],
        on_serving=lambda address: say("serving", address),
        on_ready=lambda address: say("ready", address),
        make=make,
        aim=Aim("first", "1", folder=os.path.realpath("first")),
    )
    try:
        with rundir.claim(paths):
            return supervisor.run()
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
