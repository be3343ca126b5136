"""`rag-index build`. Loads torch only once everything that can be checked without it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..conf.settings import Settings
from . import cli_text
from .chunks import Chunking
from .cli_base import config_option, json_option, print_index, settings_from
from .index_types import AUTO, COMPACT
from .models import DEFAULT_MODEL
from .passage import TEXT_ONLY, TITLE_AND_TEXT
from .rows import Fields

if TYPE_CHECKING:
    from .build_options import BuildOptions


_SETTINGS = {
    "model": "worker.model",
    "device": "pool.devices",
    "dtype": "worker.dtype",
    "backend": "worker.backend",
    "type_": "index.type",
    "bytes_per_vector": "index.bytes_per_vector",
}
"""Flags that are settings."""


@click.command()
@click.argument("corpus", nargs=-1, metavar="CORPUS...")
@click.option("--out", metavar="DIR", help="Index directory to write [index.path of the configuration].")
@click.option("--demo", is_flag=True, help="Build the built-in demo corpus, by default into the cache folder.")
@click.option("--model", metavar="M", help=f"Name or folder of the encoder [{DEFAULT_MODEL}].")
@click.option(
    "--device", metavar="D,D...", help="cpu, cuda, cuda:N, or several of one kind: a process for each [auto: all CUDA, else cpu]."
)
@click.option("--dtype", metavar="T", help="float32, float16, bfloat16, or auto: float16 on CUDA, else float32.")
@click.option("--backend", metavar="B", help="What runs the model: torch, onnx, openvino, or auto.")
@click.option("--type", "type_", metavar="T", help="auto, flat, hnsw, compact, or a factory string of faiss [auto].")
@click.option("--bytes-per-vector", type=int, metavar="N", help="Size of a vector in a compact index [32].")
@click.option("--no-refine", is_flag=True, help="Keep no float16 rows in a compact index: smaller, and less is found.")
@click.option(
    "--for",
    "for_",
    type=click.Choice(["cpu", "cuda"]),
    help="What will search it, which auto goes by [what encodes it; cpu where index.gpu is false].",
)
@click.option("--encode", type=click.Choice([TITLE_AND_TEXT, TEXT_ONLY]), default=TITLE_AND_TEXT, show_default=True)
@click.option("--id-field", metavar="NAME", default="", help="Field of the ids [_id or id].")
@click.option("--title-field", metavar="NAME", default="", help="Field of the titles [title].")
@click.option("--text-field", metavar="NAME", default="", help="Field of the texts [text, or contents].")
@click.option("--chunk-tokens", type=int, default=0, metavar="N", help="Cut what is longer into passages of at most N tokens.")
@click.option("--chunk-overlap", type=int, default=0, metavar="M", help="Tokens that such passages share with the one before.")
@click.option("--query-prefix", metavar="TEXT", help="Put before every query [what the model wants].")
@click.option("--passage-prefix", metavar="TEXT", help="Put before every passage [what the model wants].")
@click.option("--normalize/--no-normalize", default=None, help="Bring vectors to length 1 [what the model wants].")
@click.option("--skip-bad", is_flag=True, help="Skip and count bad rows instead of stopping at the first.")
@click.option("--restart", is_flag=True, help="Throw away what an earlier build that did not end has left.")
@click.option("--quiet", is_flag=True, help="Do not print what was made.")
@config_option
@json_option
@click.pass_context
def build(
    ctx: click.Context,
    /,
    corpus: tuple[str, ...],
    out: str | None,
    demo: bool,
    quiet: bool,
    as_json: bool,
    config: str | None,
    **flags: Any,
) -> None:
    """Build an index of JSONL, TSV, Parquet, .txt and .md files, or of folders of them.

    An index that is in DIR already serves on until the new one is complete. A build that was killed goes on where it was when
    the same command is given again.

    \b
    Examples:
      rag-index build corpus.jsonl.gz --out wiki
      rag-index build docs/ notes.tsv --out mine --model intfloat/e5-base-v2 --device cuda:0
      rag-index build wiki.jsonl.zst --out wiki --device cuda:0,cuda:1 --chunk-tokens 200 --chunk-overlap 20
      rag-index build passages.parquet --out p --id-field docid --text-field body --skip-bad
      rag-index build wiki.jsonl.zst --out small --type compact --bytes-per-vector 48
      rag-index build --demo
    """
    settings = settings_from(ctx, config, {"index.path": out, **{key: flags[name] for name, key in _SETTINGS.items()}})
    if demo and corpus:
        raise click.UsageError("--demo builds the built-in corpus: name no other")
    sources = corpus or ((settings.index.corpus,) if settings.index.corpus else ())
    if not demo and not sources:
        raise click.UsageError("name a corpus to build, or say --demo")
    if not demo and not settings.index.path:
        raise click.UsageError("say with --out where the index is to be written")
    _tell_idle(settings.index.type, flags)
    from .build import build_demo, build_index
    from .demo import demo_index_dir

    options = _options(settings, flags)
    with cli_text.progress() as progress:
        if demo:
            built = build_demo(out or demo_index_dir(), options, progress)
        else:
            built = build_index(sources, settings.index.path, options, progress, progress.tell)
    _tell_skipped(built.skipped, built.manifest.corpus.skipped)
    if not quiet:
        print_index(built.path, as_json)


def _tell_idle(type_: str, flags: Mapping[str, Any]) -> None:
    """Flags that do nothing, since the index will not be a compact one."""
    if type_ in (AUTO, COMPACT):
        return
    given = {"--bytes-per-vector": flags["bytes_per_vector"] is not None, "--no-refine": flags["no_refine"]}
    for flag in (flag for flag, is_given in given.items() if is_given):
        click.echo(f"warning: {flag} does nothing for the type {type_}: it is for compact", err=True)


def _tell_skipped(first: Sequence[str], count: int) -> None:
    for sentence in first:
        click.echo(f"skipped: {sentence}", err=True)
    if count:
        more = f", the first {len(first)} of them above" if count > len(first) else ""
        click.echo(f"skipped {count:,} bad {'rows' if count > 1 else 'row'}{more}", err=True)


def _options(settings: Settings, flags: Mapping[str, Any]) -> BuildOptions:
    from .build_options import BuildOptions

    return BuildOptions(
        model=settings.worker.model or DEFAULT_MODEL,
        device=",".join(settings.pool.devices),
        dtype=settings.worker.dtype,
        backend=settings.worker.backend,
        type=settings.index.type,
        bytes_per_vector=settings.index.bytes_per_vector,
        refine=not flags["no_refine"],
        for_cuda=flags["for_"] == "cuda" if flags["for_"] or not settings.index.gpu else None,
        encode=flags["encode"],
        fields=Fields(flags["id_field"], flags["title_field"], flags["text_field"]),
        chunking=Chunking(flags["chunk_tokens"], flags["chunk_overlap"]),
        skip_bad=flags["skip_bad"],
        query_prefix=flags["query_prefix"],
        passage_prefix=flags["passage_prefix"],
        normalize=flags["normalize"],
        restart=flags["restart"],
    )
