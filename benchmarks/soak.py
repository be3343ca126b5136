"""Saturation for minutes, with null workers: resident memory of the broker must stay flat, and its file descriptors constant.

The slope is a straight line through the samples, with its standard error: flat means within two of those, or below 0.1 KiB a
second. The first quarter is left out, and at least the first `--deadline-s` seconds: what remembers a deadline grows until the
first of them have passed. New sessions come and go all the time.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from bench_parts import Pipeline, Service, broker, descriptors, rss_kib

FLAT_KIB_S = 0.1


def soak(service: Service, seconds: float, every_s: float, window: int, batch: int, deadline_s: float) -> list[tuple[float, int]]:
    """(seconds since the start, RSS in KiB) of each sample."""
    samples = []
    began = time.monotonic()
    deadline_ms = round(deadline_s * 1e3)
    steady, total = Pipeline(service, batch, deadline_ms), 0
    while (at := time.monotonic() - began) < seconds:
        guest = Pipeline(service, 1, deadline_ms)
        guest.run(min(window, 10), 0.2, 0.0)
        guest.close()
        figures = steady.run(window, every_s, 0.0)
        total += round(figures.rate * every_s)
        samples.append((at, rss_kib(service.pid)))
        files = descriptors(service.pid)
        print(f"{at:7.0f} s  {samples[-1][1]:8,} KiB  {files:4} files  {figures.rate:8,.0f}/s  {total:,} requests", flush=True)
    steady.close()
    return samples


def slope(samples: list[tuple[float, int]], after_s: float) -> tuple[float, float]:
    """KiB a second, and its standard error."""
    kept = np.array([sample for sample in samples[len(samples) // 4 :] if sample[0] > after_s])
    if len(kept) < 4:
        return 0.0, float("inf")
    coefficients, covariance = np.polyfit(kept[:, 0], kept[:, 1], 1, cov=True)
    return float(coefficients[0]), float(np.sqrt(covariance[0, 0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--every-s", type=float, default=5.0, help="between two samples")
    parser.add_argument("--window", type=int, default=500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--deadline-s", type=float, default=60.0)
    options = parser.parse_args()
    with broker(options.workers, "--max-batch", str(options.batch)) as service:
        before = descriptors(service.pid)
        samples = soak(service, options.minutes * 60, options.every_s, options.window, options.batch, options.deadline_s)
        time.sleep(1.0)
        after, ended = descriptors(service.pid), service.process.poll()
        clients = service.status()["broker"]["clients"]
    rise, error = slope(samples, options.deadline_s)
    verdict = "flat" if ended is None and (rise <= 2 * error or rise < FLAT_KIB_S) else "not flat"
    print(f"files {before} before, {after} after; {clients} sessions known to the broker")
    print(f"soak {rise:+.2f} KiB/s (standard error {error:.2f}): {verdict}")


if __name__ == "__main__":
    main()
