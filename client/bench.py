"""`rag-bench`: put a load on a pool and say what came of it. Composes the parts; measures and counts nothing itself."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import click

from ..conf.sentences import FAILURE, INTERRUPTED, SentenceCommand
from ..wire.errors import BadRequest, RagpoolError
from . import asks, bench_plot, bench_table
from .bench_arrivals import CONSTANT, POISSON
from .bench_process import LoadFailed
from .bench_queries import Queries, load_queries
from .bench_runs import Plan, measured
from .bench_summary import PERCENTILES, Figures, Load
from .cli_address import address, broker_option, config_option
from .probe import QUESTION
from .sync import Client

CONCURRENCY_MAX = 100_000
RATE_MAX = 1_000_000
PROCESSES_MAX = 256

CLOSED = "Closed loop: callers that each wait for their answer, a row each."
OPEN = "Open loop: requests a second, sent when they are due; latency counts from then. A row each."

EXAMPLES = """
\b
Examples:
  rag-bench                                        closed loop: 1, 10 and 100 callers, 10 s each
  rag-bench --concurrency 500 --duration 30
  rag-bench --rate 200 --queries queries.jsonl     open loop: 200 requests a second, whatever happens
  rag-bench --rate 100,200,400 --arrivals constant --plot latency.png
  rag-bench --concurrency 2000 --processes 4 --json
"""


class BenchCommand(SentenceCommand):
    failures = (RagpoolError, LoadFailed)


def _numbers(ctx: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...]:
    """Positive numbers separated by commas, whole ones for the concurrency."""
    if text is None:
        return ()
    whole = option.name == "concurrency"
    kind, noun, most = (int, "a whole number", CONCURRENCY_MAX) if whole else (float, "a number", RATE_MAX)
    return tuple(_number(part.strip(), kind, noun, most) for part in text.split(","))


def _number(part: str, kind: type[int] | type[float], noun: str, most: int) -> float:
    try:
        number = kind(part)
    except ValueError:
        raise click.BadParameter(f"{part!r} is not {noun}") from None
    if not 0 < number <= most:
        raise click.BadParameter(f"{part} is not {noun} above 0 and at most {most:,}")
    return number


def _seconds(ctx: click.Context, option: click.Parameter, value: float) -> float:
    least = "0 or more" if option.name in ("warmup", "grace") else "above 0"
    if not math.isfinite(value) or value < 0 or (value == 0 and least == "above 0"):
        raise click.BadParameter(f"{value:g} is not a number of seconds, {least}")
    return value


def _seconds_option(name: str, default: float, meaning: str) -> Callable[[Any], Any]:
    return click.option(f"--{name}", type=float, callback=_seconds, default=default, show_default=True, metavar="S", help=meaning)


@click.command("rag-bench", cls=BenchCommand, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--concurrency", callback=_numbers, metavar="N,N...", help=f"{CLOSED}  [default: 1,10,100]")
@click.option("--rate", callback=_numbers, metavar="R,R...", help=OPEN)
@click.option("--arrivals", type=click.Choice([POISSON, CONSTANT]), default=POISSON, show_default=True, help="Of the open loop.")
@_seconds_option("duration", 10.0, "What is measured of each row.")
@_seconds_option("warmup", 2.0, "Before it, not counted.")
@_seconds_option("grace", 5.0, "After it, for requests that are still open.")
@click.option("--queries", metavar="FILE", help='One query a line, or JSON lines with "text".  [default: built-in questions]')
@click.option("-k", "--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Passages a query.")
@_seconds_option("timeout", 60.0, "For each request.")
@click.option("--priority", type=int, default=0, show_default=True, help="Of each request.")
@click.option("--collection", default="default", show_default=True, help="What is searched.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the arrivals and the order of the queries.")
@click.option("--processes", type=click.IntRange(1, PROCESSES_MAX), default=1, show_default=True, help="That make the load.")
@broker_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--plot", metavar="FILE", help="Write a picture (.png, .svg, .pdf).")
@click.version_option(version("ragpool"), prog_name="rag-bench", message="%(prog)s %(version)s")
def main(
    concurrency: tuple[int, ...],
    rate: tuple[float, ...],
    queries: str | None,
    broker: str | None,
    config: str | None,
    as_json: bool,
    plot: str | None,
    **flags: Any,
) -> int:
    """Load a pool and report throughput, latencies and where the time goes.

    Closed loop: each caller asks its next question when the last is answered. Open loop (--rate): requests are sent on a schedule
    that waits for nothing, and latency counts from the time each was due, also when this generator was late. Ctrl-C prints what
    was measured so far. Exit code 1 when nothing succeeded.
    """
    if concurrency and rate:
        raise click.UsageError("--concurrency is a closed loop and --rate an open one: give one of them")
    loads = tuple(Load(rate=each) for each in rate) if rate else tuple(Load(each) for each in concurrency or (1, 10, 100))
    plan = _plan(address(broker, config), loads, flags)
    asked = load_queries(queries, plan.seed)
    if len(asked.texts) < plan.processes:
        raise click.UsageError(
            f"--processes {plan.processes} wants at least as many different queries, there are {len(asked.texts)}"
        )
    if plot is not None:
        bench_plot.check(plot)
    _try(plan)
    if not as_json:
        _print(_heading(plan, asked))
        _print(bench_table.header(plan.open))
    found: list[Figures] = []
    for row in measured(plan, asked):
        found.append(row)
        if not as_json:
            _print(bench_table.row(row))
    _report(plan, asked, found, as_json)
    if plot is not None and found:
        bench_plot.write(plot, f"rag-bench, {plan.url}", found)
    return _exit_code(plan, found)


def _plan(url: str | None, loads: tuple[Load, ...], flags: dict[str, Any]) -> Plan:
    seconds = {f"{name}_s": flags.pop(name) for name in ("warmup", "duration", "grace", "timeout")}
    try:
        chosen = asks.options(url, os.environ.get("RAGPOOL_BROKER") or asks.DEFAULT_BROKER, seconds["timeout_s"], 1.0)
        asks.search("a query", flags["top_k"], flags["priority"], flags["collection"])
    except BadRequest as error:
        raise click.UsageError(error.message) from None
    return Plan(chosen.url, loads, **seconds, **flags)


def _try(plan: Plan) -> None:
    """One request before the load: whatever is wrong for all of them is one sentence."""
    with Client(plan.url, timeout=plan.timeout_s) as client:
        try:
            client.search(QUESTION, plan.top_k, priority=plan.priority, collection=plan.collection)
        except BadRequest as error:
            raise click.UsageError(error.message) from None


# ---- what it prints -------------------------------------------------------------------------------------------------


def _heading(plan: Plan, asked: Queries) -> str:
    kind = f"open loop, {plan.arrivals} arrivals" if plan.open else "closed loop"
    words = asked.words()
    left_out = f", {asked.repeats:,} repeated lines left out" if asked.repeats else ""
    return (
        f"{kind}, {plan.url}: {plan.duration_s:g} s each after {plan.warmup_s:g} s of warm-up, top_k {plan.top_k}\n"
        f"queries: {len(asked.texts):,} different ones ({asked.source}), {words['min']} to {words['max']} words, "
        f"median {words['median']:g}{left_out}\n"
    )


def _report(plan: Plan, asked: Queries, found: Sequence[Figures], as_json: bool) -> None:
    if as_json:
        _print(json.dumps(_document(plan, asked, found), indent=2))
    elif remarks := [remark for each in found for remark in bench_table.remarks(each)]:
        _print("\n" + "\n".join(remarks))
    if not found:
        click.echo("rag-bench: interrupted before anything was measured", err=True)


def _document(plan: Plan, asked: Queries, found: Sequence[Figures]) -> dict[str, Any]:
    told = asdict(plan)
    del told["loads"], told["url"]
    return {
        "version": version("ragpool"),
        "broker": plan.url,
        "loop": "open" if plan.open else "closed",
        **told,
        "queries": {"source": asked.source, "count": len(asked.texts), "repeats": asked.repeats, "words": asked.words()},
        "percentiles": PERCENTILES,
        "interrupted": _interrupted(plan, found),
        "rows": [asdict(each) for each in found],
    }


def _interrupted(plan: Plan, found: Sequence[Figures]) -> bool:
    return len(found) < len(plan.loads) or found[-1].interrupted


def _exit_code(plan: Plan, found: Sequence[Figures]) -> int:
    if _interrupted(plan, found):
        return INTERRUPTED
    return 0 if any(each.ok or each.qps for each in found) else FAILURE


def _print(text: str) -> None:
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
