"""A process that encodes shards of a build on one device: told what to do by JSON lines on stdin, reporting to a pipe.

It ends when stdin does. An error that the operator can mend is reported as a sentence; any other ends it with a traceback.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from .build import load
from .build_options import BuildOptions
from .errors import ConfigurationError, DeviceFull
from .shards import Work, encode_shard


def main(report_fd: int) -> None:
    with os.fdopen(report_fd, "w") as reports:
        try:
            for report in answers():
                reports.write(json.dumps(report) + "\n")
                reports.flush()
        except ConfigurationError as error:
            reports.write(json.dumps({"error": str(error)}) + "\n")
        except DeviceFull as error:
            reports.write(json.dumps({"full": str(error)}) + "\n")
        except OSError as error:  # a full disk
            reports.write(json.dumps({"error": f"the rows cannot be written: {error.strerror or error}"}) + "\n")


def answers() -> Iterator[dict[str, Any]]:
    """What there is to report, command by command."""
    first = json.loads(sys.stdin.readline() or "null")
    if first is None:
        return
    encoder, by = load(BuildOptions(**first["options"]), first["device"], first["threads"])
    yield {"by": dataclasses.asdict(by)}
    work: Work | None = None
    for line in sys.stdin:
        command = json.loads(line)
        if "work" in command:
            work = Work(**command["work"])
        elif work is not None:
            yield {"shard": command["shard"], "encoded": encode_shard(encoder, work, command["shard"])._asdict()}


if __name__ == "__main__":
    main(int(sys.argv[1]))
