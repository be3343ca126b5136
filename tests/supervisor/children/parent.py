"""A parent made from a JSON file: claims the run directory, runs the supervisor, says what it hears."""

import json
import sys
from pathlib import Path

from ragpool.conf.paths import RunPaths
from ragpool.conf.settings import ConfigurationError, SupervisorSettings
from ragpool.supervisor import rundir
from ragpool.supervisor.loop import Supervisor
from ragpool.supervisor.process import ChildSpec


def spec(fields: dict) -> ChildSpec:
    return ChildSpec(**{**fields, "args": tuple(fields["args"])})


def main() -> int:
    plan = json.loads(Path(sys.argv[1]).read_text())
    paths = RunPaths(Path(plan["root"]))

    def say(word: str, address: str) -> None:
        print(word, address, flush=True)

    def grow(slot: int) -> ChildSpec:
        return spec({**plan["workers"][0], "slot": slot})

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
        grow=grow,
    )
    try:
        with rundir.claim(paths):
            return supervisor.run()
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
