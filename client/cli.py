"""`rag-query`: ask a pool from the shell. Passages go to stdout, everything else as one sentence to stderr."""

from __future__ import annotations

import json
import os
import queue
import shutil
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any, NoReturn

import click

from ..wire.errors import BadRequest, RagpoolError
from .cli_address import address, broker_option, config_option
from .future import RequestFuture
from .hit import Hit, Hits
from .sync import Client

IN_FLIGHT = 256
"""Queries of a stream that are asked and not printed yet: the memory it takes does not grow with its length."""

WIDTH_MAX = 100

EXAMPLES = """
\b
Examples:
  rag-query "who wrote hamlet"
  rag-query "who wrote hamlet" -k 3 --json
  rag-query --broker tcp://10.0.0.7:5555 "who wrote hamlet"
  rag-query -k 10 < questions.txt > hits.jsonl
"""

Line = tuple[int, str, "RequestFuture[Hits] | str"]
"""Line number, query, and its answer to come, or the sentence that says why it could not be asked."""


class Failed(Exception):
    """Ends the command with this sentence and exit code 1."""


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("text", nargs=-1)
@click.option("-k", "--top-k", type=click.IntRange(min=1), help="Passages a query.  [default: the broker's own, 5]")
@broker_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a query.")
@click.option("--timeout", type=float, default=60.0, show_default=True, metavar="SECONDS", help="For each query.")
@config_option
@click.version_option(version("ragpool"), prog_name="rag-query", message="%(prog)s %(version)s")
def rag_query(
    text: tuple[str, ...], top_k: int | None, broker: str | None, as_json: bool, timeout: float, config: str | None
) -> None:
    """Print the passages nearest to TEXT.

    Without TEXT, queries are read from standard input, one a line, and answered as JSON lines in the same order.
    """
    try:
        client = Client(address(broker, config), timeout=timeout)
    except BadRequest as error:
        raise click.UsageError(error.message) from None
    with client:
        try:
            if not text:
                _stream(client, top_k)
            else:
                _ask(client, " ".join(text), top_k, as_json)
            sys.stdout.flush()
        except BrokenPipeError:  # whoever read our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments: list[str] | None = None) -> NoReturn:
    """Exit codes: 0 success, 1 failure, 2 usage or configuration, 130 interrupted."""
    try:
        rag_query.main(args=arguments, prog_name="rag-query", standalone_mode=False)
    except click.ClickException as error:
        _leave(error.format_message(), 2)
    except BadRequest as error:
        _leave(error.message, 2)
    except (RagpoolError, Failed) as error:
        _leave(str(error), 1)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except OSError as error:
        _leave(str(error), 1)
    sys.exit(0)


def _leave(sentence: str, code: int) -> NoReturn:
    click.echo(f"rag-query: {' '.join(sentence.split())}", err=True)
    sys.exit(code)


# ---- one query ------------------------------------------------------------------------------------------------------


def _ask(client: Client, text: str, top_k: int | None, as_json: bool) -> None:
    hits = client.search(text, top_k)
    if as_json:
        click.echo(_json_line(text, hits))
        return
    width = min(WIDTH_MAX, shutil.get_terminal_size().columns)
    click.echo("\n\n".join(_shown(rank, hit, width) for rank, hit in enumerate(hits, 1)) or "no passages")
    if hits.truncated:
        click.echo("rag-query: the query is longer than the model reads, its end was cut", err=True)


def _shown(rank: int, hit: Hit, width: int) -> str:
    head = f"{rank:>2}. {hit.score:.4f}  {hit.title or hit.text[:60].strip()}  [{hit.id}]"
    return head + "\n" + textwrap.fill(" ".join(hit.text.split()), width, initial_indent="    ", subsequent_indent="    ")


def _json_line(text: str, hits: Hits) -> str:
    return json.dumps(
        {
            "query": text,
            "hits": [
                {"id": hit.id, "score": hit.score, "title": hit.title, "text": hit.text, "metadata": hit.metadata} for hit in hits
            ],
            "index_version": hits.index_version,
            "timings_ms": hits.timings_ms,
            "truncated": hits.truncated,
        },
        ensure_ascii=False,
        default=_plain,
    )


def _plain(value: Any) -> str:
    """Bytes in metadata, the one thing that travels and that JSON has no word for."""
    return value.hex() if isinstance(value, bytes) else str(value)


# ---- a stream of queries --------------------------------------------------------------------------------------------


def _stream(client: Client, top_k: int | None) -> None:
    """Answer the lines of stdin in their order; the first that fails ends it."""
    if sys.stdin.isatty():
        click.echo("rag-query: reading queries from the terminal, one a line; Ctrl-D ends", err=True)
    lines: queue.Queue[Line | None] = queue.Queue(IN_FLIGHT)
    # reading has a thread of its own, since a pipe may pause in the middle of what is still to be printed; the descriptor
    # is a copy, since a thread that still reads sys.stdin while the interpreter ends would abort it
    reader = threading.Thread(target=_submit_lines, args=(os.dup(0), client, top_k, lines.put), daemon=True)
    reader.start()
    while (line := lines.get()) is not None:
        number, text, answer = line
        if isinstance(answer, str):
            raise Failed(f"line {number}: {answer}")
        try:
            hits = answer.result()
        except RagpoolError as error:
            raise Failed(f"line {number}: {error}") from None
        sys.stdout.write(_json_line(text, hits) + "\n")
        if lines.empty():
            sys.stdout.flush()


def _submit_lines(descriptor: int, client: Client, top_k: int | None, put: Callable[[Line | None], None]) -> None:
    for number, text, error in _decoded_lines(descriptor):
        if error:
            put((number, text, error))
            break
        try:
            put((number, text, client.submit(text, top_k)))
        except RagpoolError as refused:
            put((number, text, refused.message))
            break
    put(None)


def _decoded_lines(descriptor: int) -> Iterator[tuple[int, str, str]]:
    """(line number, query, what is wrong with it) of every line that is not empty."""
    with open(descriptor, "rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                yield number, "", "this is not UTF-8"
                return
            if text:
                yield number, text, ""


if __name__ == "__main__":
    main()
