"""`rag-index` as a person uses it: what it prints, and that whatever is wrong is one sentence and the right exit code."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hashing_encoder import HashingEncoder
from ragpool.index import build as builder
from ragpool.index import index_types, searcher, vector_files
from ragpool.index.build import BuildOptions, Built
from ragpool.index.cli import main
from ragpool.index.cli_text import Progress, progress_line
from ragpool.index.manifest import MANIFEST_NAME, read_manifest
from ragpool.index.store import open_index

Jsonl = Callable[..., Path]
ROWS = [{"_id": str(n), "title": "t", "text": f"text {n}"} for n in range(20)]


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def failed(result: Result, code: int = 2) -> str:
    """The one sentence of a command that failed."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    *progress, sentence = filter(None, result.stderr.splitlines())
    assert all(line.startswith(("reading ", "encoding ")) for line in progress)
    assert sentence.startswith("rag-index: ")
    return sentence.removeprefix("rag-index: ")


@pytest.mark.parametrize("command", [[], ["build"], ["info"], ["verify"], ["eval"]])
def test_help_has_examples(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert f"rag-index {' '.join(command)}".strip() in result.output.split("Example")[1]


def test_version() -> None:
    assert run("--version").output.startswith("rag-index, version ")


@pytest.mark.usefixtures("hashing")
def test_build_and_info(jsonl: Jsonl, tmp_path: Path) -> None:
    result = run("build", jsonl(ROWS), "--out", tmp_path / "out", "--device", "cpu", "--query-prefix", "q: ")
    assert result.exit_code == 0, result.output
    assert "passages          20" in result.stdout
    assert "query prefix      'q: '" in result.stdout
    assert "encoding 20 of 20" in result.stderr
    told = json.loads(run("info", tmp_path / "out", "--json").stdout)
    assert told["count"] == 20
    assert told["path"] == str(tmp_path / "out")
    assert run("info", tmp_path / "out").stdout == result.stdout


@pytest.mark.usefixtures("hashing")
def test_build_ends_with_how_many_passages_are_longer_than_the_model_reads(jsonl: Jsonl, tmp_path: Path) -> None:
    long = {"_id": "long", "title": "", "text": "word " * 65}
    result = run("build", jsonl([*ROWS, long]), "--out", tmp_path / "out", "--device", "cpu")
    assert "max length        64 tokens; of 1 passage the end was not read (--chunk-tokens)\n" in result.stdout
    whole = run("build", jsonl(ROWS), "--out", tmp_path / "whole", "--device", "cpu")
    assert "max length        64 tokens\n" in whole.stdout


@pytest.mark.usefixtures("hashing")
def test_build_skips_bad_rows_when_told_to(jsonl: Jsonl, tmp_path: Path) -> None:
    corpus = jsonl([*ROWS[:16], "{", *ROWS[16:]])
    assert failed(run("build", corpus, "--out", tmp_path / "out")).startswith(f"{corpus}, line 17: it is not JSON")
    result = run("build", corpus, "--out", tmp_path / "out", "--skip-bad", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["corpus"]["skipped"] == 1
    assert f"skipped: {corpus}, line 17: " in result.stderr


@pytest.mark.usefixtures("hashing")
@pytest.mark.parametrize(
    ("flags", "idle"),
    [
        (["--type", "flat", "--no-refine", "--bytes-per-vector", "24"], ["--bytes-per-vector", "--no-refine"]),
        (["--type", "flat"], []),
        (["--bytes-per-vector", "24"], []),
    ],
)
def test_flags_of_a_compact_index_do_nothing_for_others_and_that_is_said(
    jsonl: Jsonl, tmp_path: Path, flags: list[str], idle: list[str]
) -> None:
    built = run("build", jsonl(ROWS), "--out", tmp_path / "out", "--device", "cpu", *flags)
    assert built.exit_code == 0
    warned = [line for line in built.stderr.splitlines() if line.startswith("warning: ")]
    assert warned == [f"warning: {flag} does nothing for the type flat: it is for compact" for flag in idle]


@pytest.mark.usefixtures("hashing")
def test_skipped_rows_are_counted_at_the_end(jsonl: Jsonl, tmp_path: Path) -> None:
    corpus = jsonl([*ROWS, *["{"] * 25])
    result = run("build", corpus, "--out", tmp_path / "out", "--skip-bad", "--quiet")
    lines = [line for line in result.stderr.splitlines() if line.startswith("skipped")]
    assert len(lines) == 11
    assert lines[-1] == "skipped 25 bad rows, the first 10 of them above"
    assert result.stdout == ""


@pytest.mark.usefixtures("hashing")
def test_settings_come_from_a_file(jsonl: Jsonl, tmp_path: Path) -> None:
    config = tmp_path / "pool.toml"
    config.write_text(f'[index]\npath = "{tmp_path / "there"}"\ncorpus = "{jsonl(ROWS)}"\n')
    assert run("--config", config, "build").exit_code == 0
    assert json.loads(run("info", "--config", config, "--json").stdout)["count"] == 20
    assert "cannot read the configuration file" in failed(run("--config", tmp_path / "none", "info"))


@pytest.mark.usefixtures("hashing")
def test_the_demo_index_has_its_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = run("build", "--demo", "--json")
    assert result.exit_code == 0, result.output
    with open_index(json.loads(result.stdout)["path"]) as index:
        assert index.path.parent == tmp_path / "ragpool"
    assert "name no other" in failed(run("build", "corpus.jsonl", "--demo"))


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["build", "--bogus"], "No such option"),
        (["build"], "name a corpus to build"),
        (["build", "c.jsonl"], "say with --out"),
        (["build", "nothing.jsonl", "--out", "/tmp/never"], "the corpus nothing.jsonl does not exist"),
        (["build", __file__, "--out", "/tmp/never"], "is of no known kind"),
        (["build", __file__, "--out", "/tmp/no\udcffpe"], "must be text in UTF-8"),
        (["info"], "name an index directory"),
        (["info", "nowhere"], "the index nowhere does not exist"),
        (["verify", "nowhere"], "the index nowhere does not exist"),
        (["eval", "x", "--queries", "nothing", "--qrels", "nothing"], "there is no file nothing"),
        (["eval", "x", "--queries", "q", "--qrels", "r", "-k", "0"], "-k wants whole numbers"),
        (["eval", "x"], "Missing option"),
        (["eval", "--broker", "x", "--queries", "q", "--qrels", "r", "--effort", "4"], "--effort does nothing there"),
    ],
)
def test_what_is_wrong_is_one_sentence(args: list[str], sentence: str) -> None:
    assert sentence in failed(run(*args))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--model", "no-such-model"], "there is no model no-such-model"),
        (["--device", "cuda:99"], "there is no device cuda:99 here"),
        (["--device", "gpu"], "pool.devices"),
        (["--device", "cpu,cuda:0"], "the devices of a build are all of one kind, and cpu,cuda:0 are not"),
        (["--chunk-tokens", "5", "--chunk-overlap", "5"], "an overlap of 5 tokens leaves nothing new"),
        (["--chunk-tokens", "500"], "passages of 500 tokens would lose their ends"),
        (["--type", "quick"], "faiss makes no index of 'quick'"),
        (["--type", "compact", "--bytes-per-vector", "4000"], "bytes a vector, not 4000"),
        (["--dtype", "int4"], "must be one of auto, float32, float16, bfloat16, int8"),
    ],
)
def test_a_wrong_model_device_or_type_leaves_nothing_behind(
    jsonl: Jsonl, tmp_path: Path, flags: list[str], sentence: str
) -> None:
    assert sentence in failed(run("build", jsonl(ROWS), "--out", tmp_path / "out", *flags))
    assert not (tmp_path / "out").exists()


def test_verify(small: Built, tmp_path: Path) -> None:
    result = run("verify", small.path, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["ok"] is True
    copied = Path(shutil.copytree(small.path, tmp_path / "copy"))
    name = read_manifest(copied).files["rows"].name
    data = bytearray((copied / name).read_bytes())
    data[7] ^= 1
    (copied / name).write_bytes(data)
    assert f"{name} does not have the checksum" in failed(run("verify", copied), 1)
    (copied / name).unlink()
    assert f"{name} cannot be read" in failed(run("verify", copied), 1)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda data: data[: len(data) // 2], "is not JSON"),
        (lambda data: b"[]", "is not a JSON object"),
        (lambda data: data.replace(b'"dim": 384', b'"dim": "4"'), "dim is not of type int"),
        (lambda data: data.replace(b"inner", b"\xffnner"), "is not UTF-8"),
        (lambda data: data.replace(b'"dtype": "float32"', b'"dtype": "float33"'), "the checksum it says"),
    ],
)
def test_a_damaged_manifest_is_a_failure_of_verify(
    small: Built, tmp_path: Path, damage: Callable[[bytes], bytes], sentence: str
) -> None:
    copied = Path(shutil.copytree(small.path, tmp_path / "copy"))
    path = copied / MANIFEST_NAME
    path.write_bytes(damage(path.read_bytes()))
    assert sentence in failed(run("verify", copied), 1)


def test_eval_of_an_index(small: Built, tmp_path: Path) -> None:
    queries, qrels = tmp_path / "queries.jsonl", tmp_path / "qrels.tsv"
    texts = {"1": "who wrote hamlet?", "2": "the highest mountain", "3": "hot drink from leaves", "4": "not judged"}
    queries.write_text("".join(json.dumps({"_id": id_, "text": text}) + "\n" for id_, text in texts.items()))
    qrels.write_text("query-id\tcorpus-id\tscore\n1\thamlet\t1\n2\teverest\t1\n3\ttea\t1\n5\ttea\t1\n")
    result = run("eval", small.path, "--queries", queries, "--qrels", qrels, "--json", "-k", "1,10")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "queries": 3, "nDCG@1": 1.0, "nDCG@10": 1.0, "recall@1": 1.0, "recall@10": 1.0, "MRR@10": 1.0,
    }  # fmt: skip
    assert "1 judged queries are not in" in result.stderr
    shown = run("eval", small.path, "--queries", queries, "--qrels", qrels, "--engine", "faiss")
    assert "MRR@10     1.0000" in shown.stdout
    qrels.write_text("x\thamlet\t1\n")
    assert "no query of" in failed(run("eval", small.path, "--queries", queries, "--qrels", qrels))


@pytest.mark.usefixtures("hashing")
def test_eval_shows_what_another_effort_finds(jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searcher, "load_index_encoder", lambda *args, **kwargs: HashingEncoder(BuildOptions()))
    corpus = jsonl([{"_id": str(n), "text": f"text {n}"} for n in range(600)])
    for name, how in {"codes": ("--type", "compact", "--bytes-per-vector", "8"), "flat": ("--type", "flat")}.items():
        assert run("build", corpus, "--out", tmp_path / name, "--device", "cpu", *how).exit_code == 0
    (tmp_path / "q.jsonl").write_text("".join(json.dumps({"_id": str(n), "text": f"query {n}"}) + "\n" for n in range(40)))
    (tmp_path / "r.tsv").write_text("".join(f"{n}\t{n}\t1\n" for n in range(40)))
    asked = ("--queries", tmp_path / "q.jsonl", "--qrels", tmp_path / "r.tsv", "-k", "10", "--json")
    little, much = (
        json.loads(run("eval", tmp_path / "codes", "--effort", effort, *asked).stdout)["recall@10 against exact"]
        for effort in (1, 8)
    )
    assert little < 0.9 < much
    monkeypatch.setenv("RAGPOOL_INDEX__EFFORT", "1")
    again = run("eval", tmp_path / "codes", *asked)
    assert json.loads(again.stdout)["recall@10 against exact"] == little
    assert "does nothing" not in again.stderr
    assert f"warning: index.effort = 1 does nothing for {tmp_path / 'flat'}: an" in run("eval", tmp_path / "flat", *asked).stderr
    assert "index.effort = -1 (flag --effort): must be a whole number" in failed(run("eval", "x", "--effort", "-1", *asked))


class FarEncoder(HashingEncoder):
    """Encodes as if it stood on a device with a number that none has."""

    device = "cuda:99"


@pytest.mark.usefixtures("hashing")
@pytest.mark.parametrize(
    ("type_", "gpu", "said"),
    [
        ("hnsw", "true", "encoding on cuda:99, searching on cpu: no CUDA device searches the type hnsw"),
        ("flat", "false", "encoding on cuda:99, searching on cpu: index.gpu is false"),
        ("flat", "true", "rag-index: there is no device cuda:99 here"),
    ],
)
def test_eval_searches_where_a_worker_would_and_graphs_on_cpu(
    jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type_: str, gpu: str, said: str
) -> None:
    built = run("build", jsonl(ROWS), "--out", tmp_path / "out", "--device", "cpu", "--type", type_)
    assert built.exit_code == 0, built.output
    monkeypatch.setattr(searcher, "load_index_encoder", lambda *args, **kwargs: FarEncoder(BuildOptions()))
    monkeypatch.setenv("RAGPOOL_INDEX__GPU", gpu)
    (tmp_path / "q.jsonl").write_text(json.dumps({"_id": "q", "text": "t text 3"}) + "\n")
    (tmp_path / "r.tsv").write_text("q\t3\t1\n")
    result = run("eval", tmp_path / "out", "--queries", tmp_path / "q.jsonl", "--qrels", tmp_path / "r.tsv", "-k", "1", "--json")
    assert said in result.stderr
    assert result.exit_code == (2 if said.startswith("rag-index") else 0)
    assert result.exit_code or json.loads(result.stdout)["recall@1"] == 1.0


@pytest.mark.usefixtures("hashing")
def test_eval_judges_documents_that_were_cut_by_their_best_passage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The query is the second passage itself. No judgement has heard of passages."""
    monkeypatch.setattr(searcher, "load_index_encoder", lambda *args, **kwargs: HashingEncoder(BuildOptions()))
    (tmp_path / "corpus").mkdir()
    for name in "abc":
        paragraphs = (" ".join(f"{name}{part}{n}" for n in range(140)) for part in range(3))
        (tmp_path / "corpus" / f"{name}.txt").write_text("\n\n".join(paragraphs))
    assert run("build", tmp_path / "corpus", "--out", tmp_path / "out", "--device", "cpu").exit_code == 0
    (tmp_path / "q.jsonl").write_text(json.dumps({"_id": "q", "text": "b " + " ".join(f"b1{n}" for n in range(140))}) + "\n")
    asked = ("eval", tmp_path / "out", "--queries", tmp_path / "q.jsonl", "--qrels", tmp_path / "r.tsv", "-k", "1,9")
    (tmp_path / "r.tsv").write_text("q\tb.txt\t1\n")
    assert json.loads(run(*asked, "--json").stdout) == {
        "queries": 1, "nDCG@1": 1.0, "nDCG@9": 1.0, "recall@1": 1.0, "recall@9": 1.0, "MRR@10": 1.0, "by document": True,
    }  # fmt: skip
    assert "1 queries, judged by document: each counts once, by its best passage" in run(*asked).stdout
    (tmp_path / "r.tsv").write_text("q\tb.txt#1\t1\nq\tb.txt#2\t1\nq\tb.txt#3\t1\nq\ta.txt\t0\n")
    assert json.loads(run(*asked, "--json").stdout)["recall@1"] == pytest.approx(1 / 3)


def test_eval_of_a_pool_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"_id": "1", "text": "x"}\n')
    (tmp_path / "r.tsv").write_text("1\td\t1\n")
    address = f"ipc://{tmp_path}/none"
    failed(run("eval", "--broker", address, "--queries", tmp_path / "q.jsonl", "--qrels", tmp_path / "r.tsv"), 1)


@pytest.mark.usefixtures("hashing")
@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 1)])
def test_interrupts_and_full_disks(
    jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def stopped(*args: object) -> None:
        raise error

    monkeypatch.setattr(builder, "_encode", stopped)
    sentence = failed(run("build", jsonl(ROWS), "--out", tmp_path / "out"), code)
    assert sentence in ("interrupted", "No space left on device")
    assert not (tmp_path / "out" / MANIFEST_NAME).exists()


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (("encoding", 20, 100, 10, 2.0), "encoding 20 of 100, 5/s, 0:16 left"),
        (("encoding", 20, 100, 0, 0.0), "encoding 20 of 100"),
        (("encoding", 100, 100, 80, 2.0), "encoding 100 of 100, 40/s"),
        (("encoding", 1, 100_000, 1, 2.0), "encoding 1 of 100,000, 0.5/s, 55 h 33 min left"),
        (("reading", 4_096, None, 4_096, 2.0), "reading 4,096, 2,048/s"),
        (("encoding", 50, 100, 50, 1.0, 10), "encoding [#####     ] 50 of 100, 50/s, 0:01 left"),
    ],
)
def test_progress_tells_the_rate_and_the_time_left(told: tuple[Any, ...], line: str) -> None:
    assert progress_line(*told) == line


def test_progress_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A line each tenth, and at least one a minute; the rate is that of what was done here."""
    clock = iter([0.0, 10.0, 75.0, 80.0]).__next__
    progress = Progress(clock, terminal=False)
    for done in (500, 510, 515, 1_000):
        progress("encoding", done, 1_000)
    assert capsys.readouterr().err.splitlines() == [
        "encoding 500 of 1,000",
        "encoding 515 of 1,000, 0.2/s, 40:25 left",
        "encoding 1,000 of 1,000, 6/s",
    ]


def test_progress_on_a_terminal_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 0.05, 1.0, 2.0]).__next__
    progress = Progress(clock, terminal=True)
    for done in (0, 5, 50, 100):
        progress("encoding", done, 100)
    progress.tell("by the way")
    drawn, told, _ = capsys.readouterr().err.split("\n")
    assert [line.partition("]")[2].removesuffix("\x1b[K") for line in drawn.split("\r")[1:]] == [
        " 50 of 100, 50/s, 0:01 left",
        " 100 of 100, 50/s",
    ]
    assert told == "by the way"


@pytest.mark.process
def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ragpool.index.cli", "info", "nowhere"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (2, "rag-index: the index nowhere does not exist\n")


@pytest.mark.process
@pytest.mark.parametrize("module", ["cli", "manifest", "demo", "evaluate", "store", "verify", "corpus"])
def test_what_needs_no_model_loads_no_torch(module: str) -> None:
    script = (
        f"import sys, ragpool.index.{module} as m; print([n for n in ('torch', 'faiss', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("type_", "factory"), [("hnsw", "HNSW32,SQfp16"), ("compact", "SQ8")])
def test_a_type_of_faiss_from_end_to_end(jsonl: Jsonl, tmp_path: Path, type_: str, factory: str) -> None:
    words = ["apple", "sea", "tree", "house", "river", "stone", "bread", "cloud", "horse", "music", "glass", "winter"]
    corpus = jsonl([{"_id": str(n), "text": f"a story about the {word}"} for n, word in enumerate(words)])
    out = tmp_path / "out"
    result = run("build", corpus, "--out", out, "--device", "cpu", "--type", type_)
    assert result.exit_code == 0, result.output
    assert f"the index will be of type {type_} ({factory}): its faiss part needs about" in result.stderr
    told = json.loads(run("info", out, "--json").stdout)
    assert (told["type"], told["factory"]) == (type_, factory)
    assert "bytes in memory" in result.stdout
    assert "recall@10" in result.stdout
    assert run("verify", out, "--device", "cpu").exit_code == 0
    queries, qrels = tmp_path / "q.jsonl", tmp_path / "qrels.tsv"
    queries.write_text(json.dumps({"_id": "q", "text": "the ocean"}) + "\n")
    qrels.write_text("query-id\tcorpus-id\tscore\nq\t1\t1\n")
    found = json.loads(run("eval", out, "--queries", queries, "--qrels", qrels, "--device", "cpu", "--json").stdout)
    assert found["recall@10 against exact"] >= 0.9
    assert found["recall@5"] == 1.0


@pytest.mark.usefixtures("hashing")
def test_a_large_flat_index_is_measured_over_some_of_its_rows(
    jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_files, "MEASURED_ROWS", 15)
    result = run("build", jsonl(ROWS), "--out", tmp_path / "out", "--device", "cpu", "--backend", "torch", "--type", "flat")
    assert result.exit_code == 0, result.output
    assert "measured over its first 15 rows" in result.stdout
    assert read_manifest(tmp_path / "out").search.recall_at_10 == 1.0


@pytest.mark.usefixtures("hashing")
@pytest.mark.parametrize(
    ("how", "encodes", "expected"),
    [
        ((), "cuda", "compact"),
        ((), "cpu", "hnsw"),
        (("--for", "cpu"), "cuda", "hnsw"),
        (("--for", "cuda"), "cpu", "compact"),
        (("--config", "pool.toml"), "cuda", "hnsw"),
    ],
)
def test_what_encodes_an_index_searches_it_unless_something_else_is_said(
    jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: tuple[str, ...], encodes: str, expected: str
) -> None:
    made = builder._encoders

    def encoders(*args: Any) -> Any:
        found = made(*args)
        found.by = dataclasses.replace(found.by, device=encodes)
        return found

    (tmp_path / "pool.toml").write_text("[index]\ngpu = false\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builder, "_encoders", encoders)
    monkeypatch.setattr(index_types, "FLAT_ROWS_BYTES", 0)
    where = ("--device", "cpu", "--backend", "torch", "--bytes-per-vector", "8", "--json")
    result = run("build", jsonl(ROWS), "--out", tmp_path / "out", *where, *how)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["type"] == expected


@pytest.mark.usefixtures("hashing")
@pytest.mark.parametrize(("searched", "type_"), [("cpu", "hnsw"), ("cuda", "compact")])
def test_auto_goes_by_what_will_search_the_index(
    jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searched: str, type_: str
) -> None:
    monkeypatch.setattr(index_types, "FLAT_ROWS_BYTES", 0)
    how = ("--device", "cpu", "--backend", "torch", "--bytes-per-vector", "8", "--for", searched, "--json")
    result = run("build", jsonl(ROWS), "--out", tmp_path / "out", *how)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["type"] == type_
    assert "adding" in result.stderr
