"""What is searched and what is asked: an index made once by `rag-index build`, and questions, none of them twice.

With a folder of data, all its `corpus.jsonl(.gz)` are cut into passages of some sentences and indexed, and its questions are
asked: `nq_questions.txt` and every `queries.jsonl`. Without one, the demo index and the beginnings of its sentences.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ragpool.index.corpus import read_corpus
from ragpool.index.demo import demo_index_dir, demo_rows
from ragpool.index.manifest import MANIFEST_NAME

PASSAGE_WORDS = 28
"""A passage ends with the sentence that reaches so many words: about 29,000 passages of 270 letters of the usual data."""

QUESTION_WORDS = 12
LEAST_WORDS = 4
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Corpus:
    """An index directory, its name for people, and questions in a random order that is always the same."""

    index: Path
    name: str
    questions: list[str]


def demo() -> Corpus:
    """The built-in index of the product; built where it is missing."""
    folder = demo_index_dir()
    if not (folder / MANIFEST_NAME).exists():
        _build("--demo", "--out", str(folder))
    return Corpus(folder, "the built-in demo index", demo_questions())


def demo_questions() -> list[str]:
    """The beginnings of the sentences of the demo corpus."""
    sentences = (s.strip() for row in demo_rows() if row.passage for s in row.passage.text.split(". "))
    long_enough = (sentence.split() for sentence in sentences if len(sentence.split()) >= QUESTION_WORDS // 2)
    return _distinct(" ".join(words[:QUESTION_WORDS]) for words in long_enough)


def of_data(data: Path, cache: Path) -> Corpus:
    """The corpora of `data` as one index under `cache`; built where there is none of these files. Raises SystemExit where there
    are none."""
    sources = sorted(path for path in data.rglob("corpus.jsonl*") if path.name in ("corpus.jsonl", "corpus.jsonl.gz"))
    if not sources:
        raise SystemExit(f"there is no corpus.jsonl in {data}")
    folder = cache / f"index-{fingerprint(sources)}"
    if not (folder / MANIFEST_NAME).exists():
        cache.mkdir(parents=True, exist_ok=True)
        cut = cache / "corpus.jsonl"
        with cut.open("w") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in passages(sources))
        _build(str(cut), "--out", str(folder))
    names = " and ".join(path.parent.name for path in sources)
    return Corpus(folder, f"{names}, cut into passages", _distinct(_asked(data)))


def fingerprint(sources: Iterable[Path]) -> str:
    """Differs where the files do: their folders' names, sizes and times."""
    told = [(path.parent.name, path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]


def passages(sources: Iterable[Path]) -> Iterator[dict[str, str]]:
    """Rows of `sources`, cut."""
    for source in sources:
        for row in read_corpus([source]):
            if row.passage is None:
                raise SystemExit(str(row.error()))
            whole = row.passage
            for number, text in enumerate(cut(whole.text), start=1):
                yield {"id": f"{source.parent.name}:{whole.id}#{number}", "title": whole.title, "text": text}


def cut(text: str, words: int = PASSAGE_WORDS) -> Iterator[str]:
    """`text` in parts that end with a sentence, each of at least `words` but the last."""
    part: list[str] = []
    for sentence in _SENTENCE_END.split(text.strip()):
        part.append(sentence)
        if sum(len(some.split()) for some in part) >= words:
            yield " ".join(part)
            part = []
    if part:
        yield " ".join(part)


def rotations(questions: list[str]) -> Iterator[str]:
    """The questions; then, as often as wanted, with the first word moved to the end: as long as before, and another text."""
    seen: set[str] = set()
    for turn in itertools.count():
        fresh = 0
        for question in questions:
            words = question.split()
            text = " ".join(words[turn:] + words[:turn]) if turn < len(words) else f"{question} {turn}"
            if text not in seen:
                seen.add(text)
                fresh += 1
                yield text
        if not fresh:
            return


def _asked(data: Path) -> Iterator[str]:
    plain = data / "nq_questions.txt"
    if plain.exists():
        yield from plain.read_text().splitlines()
    for path in sorted(data.rglob("queries.jsonl")):
        for line in path.read_text().splitlines():
            yield json.loads(line)["text"]


def _distinct(questions: Iterable[str]) -> list[str]:
    cleaned = (" ".join(question.split()) for question in questions)
    found = list(dict.fromkeys(question for question in cleaned if len(question.split()) >= LEAST_WORDS))
    random.Random(1).shuffle(found)
    return found


def _build(*arguments: str) -> None:
    command = shutil.which("rag-index") or str(Path(sys.executable).parent / "rag-index")
    if subprocess.run([command, "build", "--quiet", *arguments], check=False).returncode:
        raise SystemExit("the index could not be built")
