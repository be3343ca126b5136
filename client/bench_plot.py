"""The figures of a load generator as a picture. matplotlib comes with the extra `bench` and is loaded only here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..conf.errors import ConfigurationError
from .bench_summary import Figures, Load

LINES = (("p50", "p50"), ("p95", "p95"), ("p99", "p99"), ("max", "max"))


def check(path: str) -> None:
    """Raise `ConfigurationError` where no picture could be written to `path`: before the load, not after it."""
    try:
        pyplot = _pyplot()
    except ImportError:
        raise ConfigurationError("--plot needs matplotlib: pip install 'ragpool[bench]'") from None
    kinds = sorted(pyplot.figure().canvas.get_supported_filetypes())
    pyplot.close("all")
    folder = Path(path).parent
    if Path(path).suffix.lower().removeprefix(".") not in kinds:
        raise ConfigurationError(f"--plot: {path} is no picture, it must end in one of {', '.join('.' + kind for kind in kinds)}")
    if Path(path).is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigurationError(f"--plot: {path} cannot be written")


def write(path: str, title: str, found: Sequence[Figures]) -> None:
    """Latency and throughput against the load, and where the time goes, mean milliseconds a stage."""
    pyplot = _pyplot()
    loads = [Load(each.concurrency, each.rate) for each in found]
    names = [f"{load.rate:g}" if load.open else str(load.concurrency) for load in loads]
    axis = "requests a second asked for" if loads[0].open else "concurrency"
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for name, label in LINES:
        left.plot(names, [getattr(each.latency_ms, name) for each in found], marker="o", label=label)
    left.plot(names, [each.longest_unanswered_ms for each in found], marker="x", linestyle=":", label="longest unanswered")
    left.set(title="latency", xlabel=axis, ylabel="ms", yscale="log")
    left.legend()
    middle.bar(names, [each.qps for each in found], color="tab:gray")
    middle.set(title="answers a second", xlabel=axis, ylabel="q/s")
    _stages(right, names, found)
    right.set(title="where the time goes (mean)", xlabel=axis, ylabel="ms")
    right.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _stages(axes: Any, names: Sequence[str], found: Sequence[Figures]) -> None:
    under = [0.0] * len(found)
    for stage in found[0].stages_ms:
        means = [max(0.0, each.stages_ms[stage].mean) for each in found]
        axes.bar(names, means, bottom=under, label=stage)
        under = [low + mean for low, mean in zip(under, means, strict=True)]


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
