"""`python -m chaos`: faults without end, or so it seems. Ends with a table, and the line `lost N, wrong N, twice N, left N`.

Exit code 0: nothing lost, wrong, twice or left, every fault was seen, and (not with --quick) every time was kept.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from random import Random

from pools import run_cli
from ragpool.index.demo import demo_index_dir
from ragpool.index.manifest import MANIFEST_NAME

from . import on_links, on_pool, on_workers, table
from .deeds import Fault
from .parents import kill_parents
from .runner import Card, Done, Runner
from .world import DEFAULTS, SHORT, World

PHASES = ((2, 0), (4, 0), (2, 2))
"""Workers of the pool's own parent, and of a supervisor elsewhere that joins over TCP."""
LANES = 4
QUICK_S = 60.0
QUICK_SEED = 4
REST_S = 3.0
"""The last faults have been seen to be over; the load goes on for this long, undisturbed."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=None, help="of everything that is left to chance [drawn, and printed]")
    parser.add_argument("--minutes", type=float, default=12.0, help="of faults, all pools together [12]")
    parser.add_argument("--rate", type=float, default=1.0, help="times the usual load of about 28 queries a second [1]")
    parser.add_argument("--lanes", type=int, default=LANES, help=f"faults at a time [{LANES}]")
    parser.add_argument("--only", default="", help="only faults with one of these words, comma-separated, in their names")
    parser.add_argument("--skip", default="", help="no faults with one of these words in their names")
    parser.add_argument("--pools", type=_pools, default=PHASES, help="of 2+0,4+0,2+2 (own workers + remote ones) [all]")
    parser.add_argument("--defaults", action="store_true", help="each fault once, one at a time, with the default clocks")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_S:.0f} s of short faults on one pool of two")
    parser.add_argument("--keep", action="store_true", help="leave logs and answers where they are, and say where")
    parser.add_argument("--parents", type=int, default=0, help="only this: kill the parent so many times, at any moment")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else QUICK_SEED if given.quick else int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # whatever ends us, the pools end first
    root = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        index = _demo_index()
        if given.parents:
            return kill_parents(root, index, given.parents, Random(seed))
        return _chaos(given, root, index, Random(seed))
    finally:
        if given.keep:
            print(f"kept in {root}", file=sys.stderr)
        else:
            shutil.rmtree(root, ignore_errors=True)


def _pools(given: str) -> list[tuple[int, int]]:
    found = [re.fullmatch("([0-9]+)[+]([0-9]+)", pool) for pool in given.split(",")]
    if None in found:
        raise argparse.ArgumentTypeError(f"{given!r} is not a list like 2+0,2+2: own workers + remote ones")
    return [(int(pool[1]), int(pool[2])) for pool in found if pool]


def _chaos(given: argparse.Namespace, root: Path, index: Path, rng: Random) -> int:
    expected = root / "expected.json"
    subprocess.run(
        [sys.executable, "-m", "chaos.oracle", str(index), str(expected)], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    phases = given.pools[:1] if given.quick else given.pools[-1:] if given.defaults else given.pools
    seconds = QUICK_S if given.quick else given.minutes * 60 / len(phases)
    rows: list[table.Row] = []
    wrong: list[str] = []
    deck: list[Card] = []
    left = faults = 0
    for local, remote in phases:
        world = World(
            root / f"{local}-{remote}", index, expected, DEFAULTS if given.defaults else SHORT, local, remote, given.rate, rng
        )
        done = _phase(world, given, seconds, deck, rng, wrong)
        rows += table.rows_of(done, world.callers.answers())
        left += world.left
        faults += len(done)
        wrong += [f"{each.fault.name}: not seen: {each.failed}" for each in done if each.failed]
        wrong += [f"{each.fault.name}: {sentence}" for each in done for sentence in each.times.late]
    return _verdict(table.merged(rows), wrong, faults, left, strict=not given.quick)


def _phase(
    world: World, given: argparse.Namespace, seconds: float, deck: list[Card], rng: Random, wrong: list[str]
) -> list[Done]:
    """One pool under load, its faults, its end."""
    runner = Runner(world, _faults(world, given), deck, 1 if given.defaults else given.lanes, 0.0, None, rng)
    try:
        world.wait_ready()
        world.measure_load()
        if world.remote:
            world.start_remote()
        idle = f"idle, a worker loads in {world.idle_load_s:.1f} s"
        print(f"{world.local} + {world.remote} workers, {world.clocks.name}; {idle}", flush=True)
        world.callers.start()
        time.sleep(REST_S)
        runner.at_most = len(runner.faults) if given.defaults else None
        runner.until = time.monotonic() + (3600.0 if given.defaults else seconds)
        runner.run()
        time.sleep(REST_S)
        wrong += world.callers.stop()
        wrong += world.missing()
    finally:
        world.close()
    return runner.done


def _faults(world: World, given: argparse.Namespace) -> list[Fault]:
    wanted, unwanted = ([word for word in words.split(",") if word] for words in (given.only, given.skip))
    found = [*on_workers.FAULTS, *on_pool.FAULTS, *on_links.FAULTS]
    found = [fault for fault in found if not wanted or any(word in fault.name for word in wanted)]
    found = [fault for fault in found if not any(word in fault.name for word in unwanted)]
    found = [fault for fault in found if (world.remote or not fault.needs_remote) and (fault.quick or not given.quick)]
    return [replace(fault, rounds=1) for fault in found] if given.defaults or given.quick else found


def _verdict(rows: list[table.Row], wrong: list[str], faults: int, left: int, *, strict: bool) -> int:
    everything = table.total(rows)
    print()
    print(table.text([*rows, everything]))
    print()
    for sentence in wrong:
        print(f"not kept: {sentence}")
    print(f"{faults} faults")
    counts = (everything.lost, everything.ends[table.WRONG], everything.ends[table.TWICE], left)
    print("lost {}, wrong {}, twice {}, left {}".format(*counts), flush=True)
    unseen = [sentence for sentence in wrong if "not seen" in sentence]
    return 1 if any(counts) or (wrong if strict else unseen) else 0


def _demo_index() -> Path:
    folder = demo_index_dir()
    if not (folder / MANIFEST_NAME).exists():
        built = run_cli("rag-index", "build", "--demo", "--out", str(folder), timeout_s=600.0)
        if built.returncode:
            raise SystemExit(built.stderr)
    return folder


if __name__ == "__main__":
    sys.exit(main())
