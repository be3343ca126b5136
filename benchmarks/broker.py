"""What the broker costs, against the least that could stand in its place: a bare ROUTER-ROUTER forwarder.

One run, interleaved, medians: the same null workers, client and frames behind both. One request a message on both sides, then
several in one message. The last line is `forwarder R`: our requests a second over the forwarder's, one a message, window 100.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from statistics import median

from bench_parts import Figures, Pipeline, broker, forwarder, table

WINDOWS = (1, 10, 100, 1000)
RATIO_WANTED = 0.6
BATCHED_WANTED = 15_000
ROUND_TRIP_WANTED = 2.0

Row = tuple[str, int, int]


def measure(workers: int, batch: int, seconds: float, runs: int) -> dict[Row, Figures]:
    """Medians by (service, items a message, window)."""
    seen: dict[Row, list[Figures]] = {}
    with ExitStack() as stack:
        bare = stack.enter_context(forwarder(workers))
        ours = stack.enter_context(broker(workers, "--max-batch", str(batch), "--items-max", "1"))
        ours_batched = stack.enter_context(broker(workers, "--max-batch", str(batch)))
        pipelines = [
            ("forwarder", 1, Pipeline(bare)),
            ("broker", 1, Pipeline(ours)),
            ("forwarder", batch, Pipeline(bare, batch)),
            ("broker", batch, Pipeline(ours_batched, batch)),
        ]
        for _ in range(runs):
            for window in WINDOWS:
                for name, items, pipeline in pipelines:
                    if items == 1 or window >= 10:
                        seen.setdefault((name, items, window), []).append(pipeline.run(window, seconds))
        for _, _, pipeline in pipelines:
            pipeline.close()
    return {row: _medians(figures) for row, figures in seen.items()}


def _medians(figures: list[Figures]) -> Figures:
    return Figures(
        median(f.rate for f in figures),
        median(f.p50_ms for f in figures),
        median(f.p99_ms for f in figures),
        median(f.cpu_us for f in figures),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="null workers behind each service [2]")
    parser.add_argument("--batch", type=int, default=32, help="items a message in the batched rows [32]")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run [1]")
    parser.add_argument("--runs", type=int, default=3, help="of each row; the median counts [3]")
    options = parser.parse_args()
    found = measure(options.workers, options.batch, options.seconds, options.runs)
    rows = [
        (
            name, items, window, f"{f.rate:,.0f}", f"{f.p50_ms:.2f}", f"{f.p99_ms:.2f}", f"{f.cpu_us:.0f}",
            f"{f.rate / found['forwarder', items, window].rate:.2f}",
        )
        for (name, items, window), f in sorted(found.items(), key=lambda item: (item[0][1], item[0][2], item[0][0] == "broker"))
    ]  # fmt: skip
    print(table(("service", "items a message", "window", "requests/s", "p50 ms", "p99 ms", "cpu us/request", "ratio"), rows))
    batched = max(f.rate for (name, items, _), f in found.items() if name == "broker" and items > 1)
    trip = found["broker", 1, 1].p50_ms / found["forwarder", 1, 1].p50_ms
    ratio = found["broker", 1, 100].rate / found["forwarder", 1, 100].rate
    print(f"round trip at window 1: {trip:.2f} of the forwarder's (wanted: at most {ROUND_TRIP_WANTED:g})")
    print(f"batched: {batched:,.0f}/s (wanted: at least {BATCHED_WANTED:,})")
    print(f"window 100: {ratio:.2f} of the forwarder's requests/s (wanted: at least {RATIO_WANTED:g})")
    print(f"forwarder {ratio:.2f}")


if __name__ == "__main__":
    main()
