"""What `rag-index` prints: progress on stderr, reports on stdout."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from .manifest import Manifest

_LINES = 10
"""Lines of progress for a stage where stderr is no terminal."""


class Progress:
    """Tells how far a stage is: a bar with rate and remaining time on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._stage = ""
        self._bar: Any = None
        self._told = -1
        self._terminal = sys.stderr.isatty()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if stage != self._stage:
            self.close()
            self._stage, self._told = stage, -1
        if total is None:
            if self._terminal:
                click.echo(f"\r{stage} {done:,}", err=True, nl=False)
        elif self._terminal:
            self._advance(stage, done, total)
        elif done * _LINES // max(total, 1) > self._told:
            self._told = done * _LINES // max(total, 1)
            click.echo(f"{stage} {done:,} of {total:,}", err=True)

    def close(self) -> None:
        """Ends the line of a bar."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None

    def _advance(self, stage: str, done: int, total: int) -> None:
        if self._bar is None:
            click.echo("\r", err=True, nl=False)
            self._bar = click.progressbar(length=total, label=stage, show_pos=True, show_eta=True, file=sys.stderr)
            self._bar.__enter__()
        seconds = self._bar.time_per_iteration
        if seconds:
            self._bar.label = f"{stage} {1 / seconds:,.0f}/s"
        self._bar.update(done - self._bar.pos)


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """A `Progress` whose bar is ended whatever happens."""
    shown = Progress()
    try:
        yield shown
    finally:
        shown.close()


def facts(manifest: Manifest) -> dict[str, object]:
    """What `info` shows of an index, by name."""
    total = sum(entry.size for entry in manifest.files.values())
    vectors = sum(entry.size for role, entry in manifest.files.items() if role in ("f32", "bf16"))
    return {
        "version": manifest.version,
        "created": manifest.created,
        "type": manifest.type,
        "passages": manifest.count,
        "dimensions": manifest.dim,
        "metric": manifest.metric + (", rows of length 1" if manifest.normalized else ""),
        "bytes": total,
        "bytes per vector": round(vectors / manifest.count, 1),
        "model": manifest.model.name,
        "model sha256": manifest.model.sha256,
        "max length": manifest.max_length,
        "query prefix": manifest.query_prefix,
        "passage prefix": manifest.passage_prefix,
        "encoded": f"{manifest.corpus.encode}, in {manifest.dtype} on {manifest.device}",
        "corpus": ", ".join(manifest.corpus.sources),
        "skipped rows": manifest.corpus.skipped,
        "made by": ", ".join(f"{name} {version}" for name, version in manifest.tools.items()),
    }


def table(rows: Mapping[str, object]) -> str:
    """Names and values, one below the other."""
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {_shown(value)}".rstrip() for name, value in rows.items())


def measures(found: Mapping[str, float], ks: Sequence[int]) -> str:
    """nDCG and recall by k, then the others."""
    lines = ["k       " + "".join(f"{k:>9}" for k in ks)]
    lines += [f"{name:<8}" + "".join(f"{found[f'{name}@{k}']:>9.4f}" for k in ks) for name in ("nDCG", "recall")]
    lines += [f"{name:<8}{value:>9.4f}" for name, value in found.items() if name.startswith("MRR")]
    return "\n".join(lines)


def _shown(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return repr(value) if isinstance(value, str) and value != value.strip() else str(value)
