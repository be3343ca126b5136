"""The pool beside other servers that do the same work, in one run: `make bench`.

Each server answers the same questions from the same index; rounds are interleaved and the median counts. Read the ratios: the
figures are this machine's. The last line is `ceiling R1, best baseline R2 (name)`: our queries a second at 100 callers over those
of the same encoder and engine without a server, and over those of the best stock server.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import platform
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from random import Random
from statistics import median

from ragpool.conf.cores import usable_cores
from ragpool.index.manifest import read_manifest

from . import corpus, report
from .ceiling import Twins, twins
from .contestants import WORKERS, others, pool, serving
from .ideal import ideal_p99
from .measure import FULL, QUICK, Plan, run_round
from .null_load import costs_us
from .processes import DidNotStart, adopt_orphans
from .records import OURS, Ceiling, Contestant, Round
from .truth import known_answers
from .tuning import Tuned, installed_versions, tune

ROOT = Path(__file__).resolve().parent.parent.parent
CHECKED = 60
SINGLES = 150
IDEAL_ARRIVALS = 100_000
MATTER = ("torch", "onnxruntime", "openvino")
"""Packages whose versions decide which options are best."""


def main() -> None:
    options = _options()
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # and with it the server of the moment
    plan = QUICK if options.quick else FULL
    data = corpus.of_data(options.data, options.cache) if options.data else corpus.demo()
    asked = Questions(data.questions, plan.rounds)
    tuned = Tuned.read(options.cache / "tuned.json", _conditions(data, options.bench_python))
    field = [one for one in [pool(), *others()] if not options.only or any(word in one.key for word in options.only)]
    python = str(options.bench_python)
    asyncio.run(_once(data.index))
    if options.tune or not options.quick:
        tune(field, tuned, data.index, python, lambda: asked.of_round(0), _tell)
    field = [tuned.best(one) for one in field]
    print(_header(data, plan, costs_us(0.5 if options.quick else 2.0)), flush=True)
    truth = known_answers(data.index, asked.checks)
    seen: dict[str, list[Round]] = {one.key: [] for one in field}
    failures: dict[str, str] = {}
    offline = []
    for number in range(plan.rounds):
        for one in _rotated(field, number, plan.rounds):
            if one.key in failures:
                continue
            try:
                seen[one.key].append(asyncio.run(run_round(one, data.index, python, plan, asked.of_round(number), truth)))
            except DidNotStart as error:
                failures[one.key] = str(error)
            _tell(f"round {number + 1} of {plan.rounds}: {one.label}: {failures.get(one.key, 'done')}")
        with twins(data.index, WORKERS) as both:
            offline.append(_offline(both, asked.of_round(number), plan, seen.get(pool().key, ())))
    rows = [report.Row(one, seen[one.key], failures.get(one.key, "")) for one in field]
    _print_all(rows, plan, offline)


async def _once(index: Path) -> None:
    """A pool, started and ended: what it finds out about this machine is kept for all that use our encoder."""
    try:
        async with serving(pool(), index, ""):
            pass
    except DidNotStart as error:
        _tell(f"the pool does not start: {error}")


class Questions:
    """The same stream for every server, another for every round; nothing in it twice. `checks` are in none of them."""

    def __init__(self, questions: Sequence[str], rounds: int) -> None:
        self.checks = list(questions[:CHECKED])
        self._rest = list(itertools.islice(corpus.rotations(list(questions[CHECKED:])), 60_000 * rounds))
        self._rounds = rounds

    def of_round(self, number: int) -> Iterator[str]:
        """Raises RuntimeError where there are too few."""
        return _until_empty(self._rest[number :: self._rounds])


def _until_empty(questions: Sequence[str]) -> Iterator[str]:
    yield from questions
    raise RuntimeError("the questions are used up: give more of them, or make the run shorter")


def _offline(both: Twins, queries: Iterator[str], plan: Plan, ours: Sequence[Round]) -> report.Offline:
    single = both.single_ms(queries, SINGLES)
    ceiling = both.best(queries, plan.ceiling_s)
    service = both.service(queries, 2 * plan.ceiling_s)
    rate = (ours[-1].open_rate if ours else 0.0) or 0.8 * ceiling.qps
    random = Random(1)
    arrivals = list(itertools.accumulate(random.expovariate(rate) for _ in range(IDEAL_ARRIVALS)))
    in_process = ideal_p99(arrivals, service, WORKERS)
    meanwhile = ours[-1].open_service if ours else None
    in_workers = ideal_p99(arrivals, meanwhile, WORKERS) if meanwhile else None
    return report.Offline(ceiling, single, report.Ideal.of(in_process), report.Ideal.of(in_workers))


def _middle(offline: Sequence[report.Offline]) -> report.Offline:
    best = sorted(offline, key=lambda one: one.ceiling.qps)[len(offline) // 2]
    return report.Offline(
        Ceiling(median(one.ceiling.qps for one in offline), median(one.ceiling.cpu_ms for one in offline), best.ceiling.batch),
        median(one.single_ms for one in offline),
        report.Ideal(median(one.in_process.p99_ms for one in offline), best.in_process.batch),
        report.Ideal(median(one.in_workers.p99_ms for one in offline), best.in_workers.batch),
    )


def _print_all(rows: Sequence[report.Row], plan: Plan, offline: Sequence[report.Offline]) -> None:
    middle = _middle(offline)
    print(report.table(rows, plan.callers, middle.ceiling))
    print()
    if any(row.contestant.kind == OURS for row in rows):
        for line in report.ratios(rows, plan.callers, middle):
            print(line)
    print(report.last_line(rows, middle.ceiling))


def _header(data: corpus.Corpus, plan: Plan, cost_us: tuple[float, float]) -> str:
    manifest = read_manifest(data.index)
    return "\n".join(
        (
            f"{time.strftime('%Y-%m-%d')}, {_processor()}, {usable_cores()} usable cores; Python {platform.python_version()}",
            f"{data.name}: {manifest.count:,} passages x {manifest.dim}, {manifest.model.name}, top 5 with texts; questions like "
            f"{data.questions[CHECKED]!r}, none twice, no caches",
            f"{plan.rounds} interleaved round{'s' if plan.rounds > 1 else ''}, medians; load generator on the same cores: "
            f"{cost_us[0]:.0f} us a request over HTTP, {cost_us[1]:.0f} us through AsyncClient (on servers that do nothing)",
        )
    )


def _conditions(data: corpus.Corpus, bench_python: Path) -> dict[str, str]:
    """What tuned options hold for."""
    manifest = read_manifest(data.index)
    found = {"processor": _processor(), "cores": str(usable_cores()), "index": manifest.version}
    found |= {name: version(name) for name in MATTER if find_spec(name)}
    return found | installed_versions(bench_python)


def _processor() -> str:
    """Its name, with the numbers that tell generations apart: some hypervisors give one name to all of them."""
    told: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        told.setdefault(name.strip(), value.strip())
    numbers = ", ".join(f"{name.removeprefix('cpu ')} {told[name]}" for name in ("cpu family", "model") if name in told)
    return f"{told.get('model name', platform.machine())}{f' ({numbers})' if numbers else ''}"


def _rotated(field: Sequence[Contestant], by: int, rounds: int) -> list[Contestant]:
    """Each round begins with another server."""
    start = by * len(field) // rounds % max(1, len(field))
    return [*field[start:], *field[:start]]


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with corpus.jsonl(.gz) files and questions [the demo index]")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / ".bench", help="for the index of the data and the tuned options [.bench]"
    )
    parser.add_argument(
        "--bench-python", type=Path, default=ROOT / ".venv-bench/bin/python", help="has the other servers installed"
    )
    parser.add_argument("--quick", action="store_true", help="one short round, tuned options as they are kept: some minutes")
    parser.add_argument("--tune", action="store_true", help="tune also for --quick")
    parser.add_argument("--only", nargs="*", metavar="WORD", help="servers whose name holds one of these")
    return parser.parse_args()


if __name__ == "__main__":
    main()
