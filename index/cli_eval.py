"""`rag-index eval`: an index in this process, or a running pool through its client."""

from __future__ import annotations

import json
from collections.abc import Callable

import click
from click.core import ParameterSource

from ..conf.settings import ConfigurationError, Settings
from . import cli_text
from .cli_base import config_option, device_option, directory_of, json_option, model_option, settings_from
from .evaluate import DEFAULT_KS, Search, evaluate_search
from .judgements import JudgedNames, read_qrels, read_queries

BROKER_TIMEOUT_S = 600.0
BY_DOCUMENT = "by document"
AGAINST_EXACT = "recall@10 against exact"

_IN_PROCESS = ("device", "engine", "effort", "model")
"""Options that a pool has chosen for itself."""


@click.command("eval")
@click.argument("directory", metavar="DIR", required=False)
@click.option("--queries", "queries_file", metavar="FILE", required=True, help="JSONL of {_id, text}, or TSV of ids and texts.")
@click.option("--qrels", "qrels_file", metavar="FILE", required=True, help="TSV: query, passage, grade; or TREC's four columns.")
@click.option("-k", "ks_given", metavar="K,K...", default=",".join(map(str, DEFAULT_KS)), show_default=True, help="Depths.")
@click.option("--broker", metavar="URL", help="Measure the pool behind this address instead of an index directory.")
@device_option
@click.option("--engine", metavar="E", help="auto, exact or faiss.")
@click.option("--effort", type=int, metavar="N", help="Lists that a search visits, or efSearch [what the build found].")
@model_option
@config_option
@json_option
@click.pass_context
def evaluate_command(
    ctx: click.Context,
    directory: str | None,
    queries_file: str,
    qrels_file: str,
    ks_given: str,
    broker: str | None,
    device: str,
    engine: str | None,
    effort: int | None,
    model: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Measure nDCG@k, recall@k and MRR@10, in the meaning of trec_eval, each of a search for k results; of an index that is not
    flat also recall@10 against an exact search over its rows. Passages of longer documents are judged by document, unless the
    judgements name them: each counts once, by its best passage.

    \b
    Examples:
      rag-index eval wiki --queries queries.jsonl --qrels qrels.tsv
      rag-index eval wiki --queries queries.jsonl --qrels qrels.tsv -k 10 --effort 64
      rag-index eval --broker tcp://127.0.0.1:5555 --queries queries.jsonl --qrels qrels.tsv -k 10,100 --json
    """
    if broker:
        _check_for_pool(ctx)
    ks = _depths(ks_given)
    qrels = read_qrels(qrels_file)
    judged = {id_: text for id_, text in read_queries(queries_file).items() if id_ in qrels}
    if not judged:
        raise ConfigurationError(f"no query of {queries_file} is judged in {qrels_file}")
    search_as: dict[str, object] = {"index.engine": engine, "index.effort": effort}
    settings = settings_from(ctx, config, {"index.path": directory, "worker.model": model, **search_as})

    def measured(search: Search) -> dict[str, float]:
        with cli_text.progress() as progress:
            return evaluate_search(search, judged, qrels, ks, lambda done, of: progress("searching", done, of))

    names = JudgedNames(qrels)
    found = _through_broker(broker, names, measured) if broker else _in_process(settings, device, names, measured)
    missing = len(qrels) - len(judged)
    if missing:
        click.echo(f"warning: {missing} judged queries are not in {queries_file}", err=True)
    if as_json:
        click.echo(json.dumps({"queries": len(judged), **found, **({BY_DOCUMENT: True} if names.pieces else {})}, indent=2))
    else:
        how = ", judged by document: each counts once, by its best passage" if names.pieces else ""
        click.echo(cli_text.measures(found, ks) + f"\n{len(judged):,} queries{how}")


def _check_for_pool(ctx: click.Context) -> None:
    for name in _IN_PROCESS:
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--broker measures a pool as it runs: --{name} does nothing there")


def _through_broker(url: str, names: JudgedNames, measured: Callable[[Search], dict[str, float]]) -> dict[str, float]:
    from ..client import Client

    with Client(url, timeout=BROKER_TIMEOUT_S) as client:
        return measured(
            lambda queries, top_k: [
                [(names(hit.id, hit.metadata), hit.score) for hit in hits] for hits in client.search_many(queries, top_k=top_k)
            ]
        )


def _in_process(
    settings: Settings, device: str, names: JudgedNames, measured: Callable[[Search], dict[str, float]]
) -> dict[str, float]:
    from .engine import idle_effort
    from .searcher import Searcher
    from .store import open_index

    with open_index(directory_of(settings)) as index:
        for warning in idle_effort(settings.index.effort, index.manifest, str(index.path)):
            click.echo(f"warning: {warning}", err=True)
        searcher = Searcher(index, device, settings, names)
        encodes, searches = searcher.devices
        if searches != encodes:
            why = "index.gpu is false" if not settings.index.gpu else f"no CUDA device searches the type {index.manifest.type}"
            click.echo(f"encoding on {encodes}, searching on {searches}: {why}", err=True)
        found = measured(searcher)
    against_exact = searcher.recall_against_exact()
    return found if against_exact is None else {**found, AGAINST_EXACT: against_exact}


def _depths(given: str) -> list[int]:
    try:
        ks = sorted({int(word) for word in given.split(",")})
    except ValueError:
        ks = []
    if not ks or ks[0] < 1:
        raise click.UsageError(f"-k wants whole numbers from 1, separated by commas, not {given!r}")
    return ks
