"""What `rag-index` prints: progress on stderr, reports on stdout."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import click

from .manifest import Manifest

_LINES = 10
"""Lines of progress for a stage where stderr is no terminal, if it is quick."""
_SILENCE_S = 60.0
"""The longest time without one, if it is not."""
_BAR = 24
_DRAWN_S = 0.1


class Progress:
    """Tells how far a stage is, how fast it goes and how long it takes on: a bar on a terminal, else a line now and then."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, terminal: bool | None = None) -> None:
        self._clock = clock
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._stage = ""
        self._first = self._tenth = 0
        self._since = self._shown_at = 0.0
        self._open = False

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        now = self._clock()
        if stage != self._stage:
            self.close()
            self._stage, self._first, self._tenth = stage, done, -1
            self._since = self._shown_at = now
        finished = total is not None and done >= total
        tenth = done * _LINES // max(total, 1) if total is not None else self._tenth
        quiet_s = now - self._shown_at
        if self._terminal:
            if finished or quiet_s >= _DRAWN_S:
                self._draw(progress_line(stage, done, total, done - self._first, now - self._since, _BAR), now)
        elif tenth > self._tenth or quiet_s >= _SILENCE_S:
            self._tenth, self._shown_at = tenth, now
            click.echo(progress_line(stage, done, total, done - self._first, now - self._since), err=True)

    def tell(self, sentence: str) -> None:
        """A line of its own, whatever is drawn."""
        self.close()
        click.echo(sentence, err=True)

    def close(self) -> None:
        """Ends the line of a bar."""
        if self._open:
            click.echo(err=True)
            self._open = False

    def _draw(self, line: str, now: float) -> None:
        click.echo(f"\r{line}\x1b[K", err=True, nl=False)
        self._shown_at, self._open = now, True


def progress_line(stage: str, done: int, total: int | None, new: int, seconds: float, bar: int = 0) -> str:
    """`new` of the `done` were done in these `seconds`: the rate and the time left are told by them alone."""
    rate = new / seconds if seconds > 0 else 0.0
    speed = f", {rate:,.0f}/s" if rate >= 1 else f", {rate:.2g}/s" if rate else ""
    if total is None:
        return f"{stage} {done:,}{speed}"
    drawn = f"[{'#' * (bar * done // max(total, 1)):<{bar}}] " if bar else ""
    left = f", {_duration((total - done) / rate)} left" if rate and done < total else ""
    return f"{stage} {drawn}{done:,} of {total:,}{speed}{left}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02}"
    return f"{minutes // 60} h {minutes % 60:02} min"


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
    search = manifest.search
    total = sum(entry.size for entry in manifest.files.values())
    vectors = sum(entry.size for role, entry in manifest.files.items() if not entry.name.startswith("passages-"))
    return {
        "version": manifest.version,
        "created": manifest.created,
        "type": manifest.type,
        "factory": manifest.factory,
        "passages": manifest.count,
        "dimensions": manifest.dim,
        "metric": manifest.metric + (", rows of length 1" if manifest.normalized else ""),
        "bytes": total,
        "bytes per vector": round(vectors / manifest.count, 1),
        **_part_facts(manifest),
        "recall@10": f"{search.recall_at_10:.4f} against an exact search, on passages and points between them",
        "queries/s": f"{search.queries_per_s:,.0f} of vectors in batches of 32, on {search.threads} threads, when it was built",
        "model": manifest.model.name,
        "model sha256": manifest.model.sha256,
        "max length": f"{manifest.max_length:,} tokens{_told_truncated(manifest.truncated)}",
        "query prefix": manifest.query_prefix,
        "passage prefix": manifest.passage_prefix,
        "encoded": f"{manifest.corpus.encode}, in {manifest.dtype} on {manifest.device}",
        "corpus": ", ".join(manifest.corpus.sources),
        "skipped rows": manifest.corpus.skipped,
        "made by": ", ".join(f"{name} {version}" for name, version in manifest.tools.items()),
    }


def _told_truncated(count: int) -> str:
    return f"; of {count:,} {'passages' if count > 1 else 'passage'} the end was not read (--chunk-tokens)" if count else ""


def _part_facts(manifest: Manifest) -> dict[str, object]:
    """What only indexes with a faiss part have, and what is to be said of the figures."""
    search = manifest.search
    note: dict[str, object] = {"note": search.note} if search.note else {}
    if not search.part_bytes:
        return note
    told: dict[str, object] = {
        "bytes in memory": f"{search.part_bytes:,}, {search.part_bytes / manifest.count:.1f} per vector",
        "refined": f"{search.candidates} candidates from float16 rows on disk" if search.candidates else "no",
        "effort": search.effort,
        "trained": f"on {search.sample_rows:,} rows, seed {search.seed}",
    }
    return told | note


def table(rows: Mapping[str, object]) -> str:
    """Names and values, one below the other."""
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {_shown(value)}".rstrip() for name, value in rows.items())


def measures(found: Mapping[str, float], ks: Sequence[int]) -> str:
    """nDCG and recall by k, then the others."""
    lines = ["k       " + "".join(f"{k:>9}" for k in ks)]
    lines += [f"{name:<8}" + "".join(f"{found[f'{name}@{k}']:>9.4f}" for k in ks) for name in ("nDCG", "recall")]
    lines += [f"{name:<8}{value:>9.4f}" for name, value in found.items() if name.startswith("MRR") or " " in name]
    return "\n".join(lines)


def _shown(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return repr(value) if isinstance(value, str) and value != value.strip() else str(value)
