"""Every corpus shape is read, and whatever is wrong is named by file and line."""

from __future__ import annotations

import datetime
import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from ragpool.conf.settings import ConfigurationError
from ragpool.index.corpus import Row, read_corpus
from ragpool.index.errors import CorpusError
from ragpool.index.passage import Passage
from ragpool.index.rows import Fields

Jsonl = Callable[..., Path]
BEIR = [{"_id": "a", "title": "A", "text": "first"}, {"_id": "b", "title": "", "text": "second", "url": "u", "n": [1, {"x": 2}]}]
PASSAGES = [Passage("a", "A", "first"), Passage("b", "", "second", {"url": "u", "n": [1, {"x": 2}]})]


def passages(*paths: Path, fields: Fields | None = None) -> list[Passage | None]:
    return [row.passage for row in read_corpus(paths, fields or Fields())]


def bad(rows: Iterator[Row]) -> list[str]:
    return [str(row.error()) for row in rows if row.passage is None]


def lines_of(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_beir(jsonl: Jsonl) -> None:
    assert passages(jsonl(BEIR)) == PASSAGES


def test_contents_have_their_title_on_the_first_line(jsonl: Jsonl) -> None:
    rows = [{"id": 7, "contents": "Title\nBody\nmore"}, {"id": "8", "contents": "only a body"}]
    assert passages(jsonl(rows)) == [Passage("7", "Title", "Body\nmore"), Passage("8", "", "only a body")]


def test_id_title_text_and_a_map_of_metadata(jsonl: Jsonl) -> None:
    rows = [{"id": "x", "title": None, "text": "t", "metadata": {"lang": "en"}, "year": 1}]
    assert passages(jsonl(rows)) == [Passage("x", "", "t", {"lang": "en", "year": 1})]


def test_fields_by_other_names(jsonl: Jsonl) -> None:
    rows = [{"docid": 1, "heading": "h", "body": "b", "id": "kept", "text": "kept too"}]
    found = passages(jsonl(rows), fields=Fields("docid", "heading", "body"))
    assert found == [Passage("1", "h", "b", {"id": "kept", "text": "kept too"})]


def test_blank_lines_and_a_byte_order_mark_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines_of(BEIR).replace(b"\n", b"\r\n\r\n"))
    assert [(row.line, row.passage) for row in read_corpus([path])] == [(1, PASSAGES[0]), (3, PASSAGES[1])]


@pytest.mark.parametrize("name", ["a.jsonl", "A.JSONL"])
def test_gzip_and_zstandard(tmp_path: Path, name: str) -> None:
    gz, zst = (tmp_path / f"{name}{suffix.upper() if name.isupper() else suffix}" for suffix in (".gz", ".zst"))
    gz.write_bytes(gzip.compress(lines_of(BEIR[:1])) + gzip.compress(lines_of(BEIR[1:])))
    assert passages(gz) == PASSAGES
    frames = [zstandard.ZstdCompressor().compress(lines_of([row])) for row in BEIR]
    zst.write_bytes(b"".join(frames))
    assert passages(zst) == PASSAGES


def test_zstandard_with_the_longest_window_there_is(tmp_path: Path) -> None:
    """A frame of one uncompressed block whose header says what `--long=31` writes: a window of 2 GiB."""
    data = lines_of(BEIR)
    header, block = b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3]), (len(data) << 3 | 1).to_bytes(3, "little")
    path = tmp_path / "c.jsonl.zst"
    path.write_bytes(header + block + data)
    assert passages(path) == PASSAGES


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_that_is_cut_short_is_named_with_its_line(tmp_path: Path, suffix: str) -> None:
    data = lines_of([{"_id": str(n), "text": f"{n} {n * 7919}"} for n in range(20_000)])
    whole = gzip.compress(data) if suffix == ".gz" else zstandard.ZstdCompressor().compress(data)
    path = tmp_path / f"c.jsonl{suffix}"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorpusError, match="cut short") as caught:
        list(read_corpus([path]))
    assert caught.value.file == str(path)
    assert caught.value.line > 100


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_file_that_is_not_compressed_after_all(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c.jsonl{suffix}"
    path.write_bytes(lines_of(BEIR))
    with pytest.raises(CorpusError, match=f"c.jsonl{suffix}, line 1: the compressed data is damaged"):
        list(read_corpus([path]))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "it is not JSON"),
        ("[1]", "it is not a JSON object"),
        ('{"text": "t"}', "it has no _id or id"),
        ('{"id": null, "text": "t"}', "its id is null, which is no id"),
        ('{"id": "", "text": "t"}', 'its id is "", which is no id'),
        ('{"id": true, "text": "t"}', "its id is true"),
        ('{"id": " \\t", "text": "t"}', 'its id is " \\t", which is no id'),
        ('{"id": "1", "text": "t", "id": "2"}', "it has several values named 'id'"),
        ('{"id": "1", "text": "t", "meta": [{"x": 1, "x": 1}]}', "it has several values named 'x'"),
        ('{"id": "1"}', "it has no text"),
        ('{"id": "1", "text": 5}', "its text is 5, which is not text"),
        ('{"id": "1", "text": null}', "its text is null"),
        ('{"id": "1", "title": [], "text": "t"}', "its title is list"),
        ('{"id": "1", "text": "t", "score": NaN}', "NaN is not a number of JSON"),
        (
            '{"id": "1", "text": "t", "a": {"b": [1, -1e999]}}',
            "its a holds a value that is not finite, which is not a number of JSON",
        ),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(jsonl: Jsonl, line: str, reason: str) -> None:
    path = jsonl([BEIR[0], line, BEIR[1]])
    rows = list(read_corpus([path]))
    assert [row.passage for row in rows if row.passage] == PASSAGES
    (sentence,) = bad(iter(rows))
    assert sentence.startswith(f"{path}, line 2: ")
    assert reason in sentence
    assert "\n" not in sentence


def test_a_line_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(lines_of(BEIR[:1]) + '{"id": "1", "text": "Zürich"}\n'.encode("latin-1"))
    assert bad(read_corpus([path])) == [f"{path}, line 2: it is not UTF-8: byte 23 of the line cannot be decoded"]


def test_tsv(tmp_path: Path) -> None:
    path = tmp_path / "c.tsv"
    path.write_text('id\ttext\ttitle\n1\t"a ""quoted"" text"\tT\n2\t"unbalanced\tU\n3\ttoo few\n\n4\tlast\t\n')
    rows = list(read_corpus([path]))
    assert [row.passage for row in rows if row.passage] == [
        Passage("1", "T", 'a "quoted" text'),
        Passage("2", "U", '"unbalanced'),
        Passage("4", "", "last"),
    ]
    assert bad(iter(rows)) == [f"{path}, line 4: it has 2 fields, the header has 3"]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ('"Foo" is a song by "Bar"', '"Foo" is a song by "Bar"'),
        ('"""Foo"" is a song by ""Bar"""', '"Foo" is a song by "Bar"'),
        ('"Foo"', "Foo"),
        ('""""', '"'),
        ('"', '"'),
        ('"a"" b"c"', '"a"" b"c"'),
    ],
)
def test_only_a_quoted_field_of_tsv_loses_its_quotes(tmp_path: Path, field: str, text: str) -> None:
    path = tmp_path / "c.tsv"
    path.write_text(f"id\ttext\ttitle\n1\t{field}\tT\n")
    assert passages(path) == [Passage("1", "T", text)]


def test_tsv_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "c.tsv"
    path.write_text("1\ta text\n2\tanother\n")
    with pytest.raises(CorpusError, match=r"line 1: it has no column _id or id; its columns are '1', 'a text'"):
        list(read_corpus([path]))
    path.write_text("one column\n")
    with pytest.raises(CorpusError, match=r"line 1: .* is not a header"):
        list(read_corpus([path]))


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    day = datetime.date(2024, 2, 29)
    table = {"id": [1, 2, None], "title": ["T", None, "x"], "text": ["one", "two", "three"], "day": [day, None, day]}
    pyarrow.parquet.write_table(pyarrow.table(table | {"raw": [b"\xff"] * 3}), path)
    rows = list(read_corpus([path]))
    assert rows[0].passage == Passage("1", "T", "one", {"day": "2024-02-29", "raw": "ff"})
    assert rows[1].passage == Passage("2", "", "two", {"day": None, "raw": "ff"})
    assert bad(iter(rows)) == [f"{path}, row 3: its id is null, which is no id"]


def test_parquet_values_that_no_passage_can_hold(tmp_path: Path) -> None:
    """Beyond the year 9999, not UTF-8, not finite: only their rows are bad, and each is named."""
    path = tmp_path / "c.parquet"
    days = pyarrow.array([4_000_000, 1, 1, 1], pyarrow.int32()).view(pyarrow.date32())
    text = pyarrow.array([b"one", b"\xff", b"three", b"four"]).view(pyarrow.string())
    near = [[0.5], [0.5], [0.5], [float("nan")]]
    pyarrow.parquet.write_table(pyarrow.table({"id": list(range(4)), "text": text, "day": days, "near": near}), path)
    rows = list(read_corpus([path]))
    assert [(row.line, row.passage) for row in rows if row.passage] == [
        (3, Passage("2", "", "three", {"day": "1970-01-02", "near": [0.5]}))
    ]
    far, broken, infinite = bad(iter(rows))
    assert far.startswith(f"{path}, row 1: its day cannot be read: ")
    assert broken.startswith(f"{path}, row 2: its text cannot be read: ")
    assert infinite == f"{path}, row 4: its near holds a value that is not finite, which is not a number of JSON"


def test_nanoseconds_of_parquet_are_text(tmp_path: Path) -> None:
    """With pandas and without it. What six digits tell is told as ever."""
    path = tmp_path / "c.parquet"
    at = pyarrow.array([1_600_000_000_000_456_789, -1, 1_600_000_000_000_000_000, None], pyarrow.timestamp("ns"))
    took = pyarrow.array([1_000_000_001, -1, 1_000, None], pyarrow.duration("ns"))
    nested = pyarrow.array([[1], [], [None, 1_000], None], pyarrow.list_(pyarrow.time64("ns")))
    both = pyarrow.array([{"a": 1}, {"a": None}, {"a": 0}, None], pyarrow.struct([("a", pyarrow.duration("ns"))]))
    pairs = pyarrow.array([[("k", 1)], [], [("k", None)], None], pyarrow.map_(pyarrow.string(), pyarrow.timestamp("ns")))
    table = {"id": list(range(4)), "text": list("abcd"), "at": at, "zone": at.cast(pyarrow.timestamp("ns", "Europe/Berlin"))}
    pyarrow.parquet.write_table(pyarrow.table({**table, "took": took, "nested": nested, "both": both, "pairs": pairs}), path)
    names = ("at", "zone", "took", "nested", "both", "pairs")
    rows = [[row.passage.metadata[name] for name in names] if row.passage else row.reason for row in read_corpus([path])]
    assert rows == [
        [
            "2020-09-13T12:26:40.000456789",
            "2020-09-13T14:26:40.000456789+02:00",
            "0:00:01.000000001",
            ["00:00:00.000000001"],
            {"a": "0:00:00.000000001"},
            [["k", "1970-01-01T00:00:00.000000001"]],
        ],
        [
            "1969-12-31T23:59:59.999999999",
            "1970-01-01T00:59:59.999999999+01:00",
            "-1 day, 23:59:59.999999999",
            [],
            {"a": None},
            [],
        ],
        [
            "2020-09-13T12:26:40",
            "2020-09-13T14:26:40+02:00",
            "0:00:00.000001",
            [None, "00:00:00.000001"],
            {"a": "0:00:00"},
            [["k", None]],
        ],
        [None] * 6,
    ]


def test_parquet_with_two_columns_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    columns = [pyarrow.array([text]) for text in ("1", "one", "two", "three")]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names=["id", "text", "x", "x"]), path)
    with pytest.raises(CorpusError) as caught:
        list(read_corpus([path]))
    assert str(caught.value) == f"{path}: it has several columns named 'x'"


def test_parquet_without_a_column(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"id": [1], "body": ["one"]}), path)
    with pytest.raises(CorpusError) as caught:
        list(read_corpus([path]))
    assert str(caught.value) == f"{path}: it has no column text or contents; its columns are 'id', 'body'"
    assert passages_by(path, Fields(text="body")) == [Passage("1", "", "one")]
    with pytest.raises(CorpusError, match="it has no column heading"):
        list(read_corpus([path], Fields(title="heading", text="body")))


def passages_by(path: Path, fields: Fields) -> list[Passage | None]:
    return [row.passage for row in read_corpus([path], fields)]


def test_parquet_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(CorpusError, match=r"c.parquet, row 1: cannot be read as Parquet"):
        list(read_corpus([path]))


@pytest.mark.parametrize(
    ("package", "name", "extra"), [("zstandard", "c.jsonl.zst", "zstd"), ("pyarrow", "c.parquet", "parquet")]
)
def test_a_missing_package_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str, extra: str
) -> None:
    (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError, match=rf"needs the package {package}: pip install 'ragpool\[{extra}\]'"):
        list(read_corpus([tmp_path / name]))


def test_documents_and_folders(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "no.txt").write_text("no")
    paragraph = " ".join(f"word{n}" for n in range(80))
    (tmp_path / "sub" / "guide.md").write_text(f"# The Guide #\n\n{paragraph}\n\n{paragraph}\n")
    (tmp_path / "note.txt").write_text("A short note.")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    (tmp_path / "rows.jsonl").write_bytes(lines_of(BEIR[:1]))
    rows = list(read_corpus([tmp_path]))
    assert [row.passage.id for row in rows if row.passage] == ["note.txt", "a", "sub/guide.md#1", "sub/guide.md#2"]
    assert [row.line for row in rows] == [1, 1, 1, 5]
    guide = rows[2].passage
    assert guide is not None
    assert guide.title == "The Guide"
    assert guide.metadata == {"source": "sub/guide.md", "document": "sub/guide.md"}


def test_folders_behind_links_are_read_each_folder_once(tmp_path: Path) -> None:
    corpus, elsewhere = tmp_path / "corpus", tmp_path / "elsewhere"
    for folder in (corpus / "b" / "deep", elsewhere / "sub"):
        folder.mkdir(parents=True)
        (folder / "x.txt").write_text("words")
    (corpus / "z.txt").write_text("words")
    for link, target in {"a": "b", "c": elsewhere, "d": elsewhere, "b/up": corpus, "b/self": ".", ".e": elsewhere}.items():
        (corpus / link).symlink_to(target)
    (elsewhere / "back").symlink_to(corpus)
    found = [row.passage.id for row in read_corpus([corpus]) if row.passage]
    assert found == ["z.txt", "b/deep/x.txt", "c/sub/x.txt"]


def test_no_link_renames_what_is_there_without_it(tmp_path: Path) -> None:
    for folder in ("a", "b/deep"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "b" / "deep" / "x.txt").write_text("some words")
    (tmp_path / "a" / "latest").symlink_to("../b")
    assert [row.passage.id for row in read_corpus([tmp_path]) if row.passage] == ["b/deep/x.txt"]


def test_a_link_to_itself_is_named_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines_of(BEIR))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CorpusError, match=f"^{tmp_path}: the folder cannot be read: Too many levels of symbolic links"):
        list(read_corpus([tmp_path]))


@pytest.mark.parametrize("name", ["more", "notes.txt"])
def test_a_link_that_leads_to_nothing_is_named(tmp_path: Path, name: str) -> None:
    """It may have led to a folder of the corpus."""
    (tmp_path / "rows.jsonl").write_bytes(lines_of(BEIR))
    (tmp_path / ".#rows.jsonl").symlink_to("an editor's mark")
    assert passages(tmp_path) == PASSAGES
    (tmp_path / name).symlink_to("gone")
    with pytest.raises(CorpusError, match=f"^{tmp_path}/{name}: the link leads to nothing: there is no gone$"):
        list(read_corpus([tmp_path]))


@pytest.mark.process
def test_a_folder_that_may_not_be_read_ends_the_build(tmp_path: Path) -> None:
    """Seen by a process that is not root: root reads everything."""
    secret = tmp_path / "corpus" / "secret"
    secret.mkdir(parents=True)
    (tmp_path / "corpus" / "note.txt").write_text("words")
    secret.chmod(0)
    tmp_path.chmod(0o755)
    script = (
        "import os\nfrom ragpool.index.corpus import read_corpus\nif os.getuid() == 0: os.setuid(65534)\n"
        "try: print([row.passage.id for row in read_corpus(['corpus'])])\nexcept Exception as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("corpus/secret: the folder cannot be read: Permission denied\n", "")


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Notes on C# and F# in 2024\n\n# Guide", "Guide"),
        ("#hashtag\n####### seven\n    # code\n   ###### Six ##  ", "Six"),
        ("# C#\n", "C#"),
        ("#\n# #\n## \t\n# The title", "The title"),
        ("```sh\n# a comment\n~~~\n# another\n````\n# After", "After"),
        ("~~~~\n~~~\n# in it\n~~~~ x\n# in it\n~~~~~ \n# After", "After"),
        ("```one line``` of code\n# After", "After"),
        ("```\n# never closed", "notes"),
        ("A line with # in it\n", "notes"),
    ],
)
def test_the_title_of_a_markdown_file_is_its_first_heading(tmp_path: Path, text: str, title: str) -> None:
    (tmp_path / "notes.md").write_text(text)
    (found,) = passages(tmp_path / "notes.md")
    assert found is not None
    assert found.title == title


@pytest.mark.parametrize("name", ["d.txt", "d.md"])
def test_a_document_without_a_word_is_bad(tmp_path: Path, name: str) -> None:
    """Only its name would be encoded."""
    for text in ("", " \n\t\n"):
        (tmp_path / name).write_text(text)
        assert bad(read_corpus([tmp_path])) == [f"{tmp_path}/{name}, line 1: its text is empty"]


def test_a_document_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_bytes(b"fine\n\xff\xfe\n")
    (sentence,) = bad(read_corpus([tmp_path / "d.txt"]))
    assert sentence.startswith(f"{tmp_path}/d.txt, line 2: it is not UTF-8")


def test_paths_that_are_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        list(read_corpus([tmp_path / "nothing.jsonl"]))
    (tmp_path / "x.doc").write_text("")
    with pytest.raises(ConfigurationError, match="of no known kind"):
        list(read_corpus([tmp_path / "x.doc"]))
    with pytest.raises(ConfigurationError, match="there is no corpus file in"):
        list(read_corpus([tmp_path]))


def test_scifact_is_read_whole() -> None:
    path = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "scifact" / "corpus.jsonl.gz"
    if not path.exists():
        pytest.skip("the SciFact corpus is not on this machine")
    found = passages(path)
    assert len(found) == 5_183
    assert len({passage.id for passage in found if passage}) == 5_183
