"""`rag-index`: builds index directories, tells what is in one, checks and measures it. Loads torch only where it computes."""

from __future__ import annotations

import json

import click

from . import cli_text
from .cli_base import (
    Failed,
    IndexGroup,
    config_option,
    device_option,
    directory_of,
    json_option,
    model_option,
    print_index,
    settings_from,
)
from .cli_build import build
from .cli_calibrate import calibrate_command
from .cli_eval import evaluate_command
from .errors import IndexDamaged


@click.group("rag-index", cls=IndexGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ragpool", prog_name="rag-index")
@config_option
@click.pass_context
def main(ctx: click.Context, config: str | None) -> None:
    """Indexes for a pool of retrieval workers.

    \b
    Examples:
      rag-index build corpus.jsonl --out wiki
      rag-index info wiki
      rag-index verify wiki
      rag-index eval wiki --queries queries.jsonl --qrels qrels.tsv
    """
    ctx.obj = config


@main.command()
@click.argument("directory", metavar="DIR", required=False)
@config_option
@json_option
@click.pass_context
def info(ctx: click.Context, directory: str | None, config: str | None, as_json: bool) -> None:
    """What is in an index.

    \b
    Examples:
      rag-index info wiki
      rag-index info wiki --json
    """
    print_index(directory_of(settings_from(ctx, config, {"index.path": directory})), as_json)


@main.command()
@click.argument("directory", metavar="DIR", required=False)
@device_option
@model_option
@config_option
@json_option
@click.pass_context
def verify(ctx: click.Context, directory: str | None, device: str, model: str | None, config: str | None, as_json: bool) -> None:
    """Check an index: every checksum, passage and vector, the model, and one passage that must find itself.

    Exit code 1 where it is damaged. --device says where the passage is encoded; it is searched for on cpu.

    \b
    Examples:
      rag-index verify wiki
      rag-index verify wiki --model /models/e5-base-v2
    """
    settings = settings_from(ctx, config, {"index.path": directory, "worker.model": model})
    from .checks import verify_all

    try:
        checks = verify_all(directory_of(settings), device, settings.worker.model)
    except IndexDamaged as error:
        raise Failed(str(error)) from None
    found: dict[str, object] = {check.name: check.found for check in checks}
    click.echo(json.dumps({"ok": True, "checks": found}, indent=2) if as_json else cli_text.table(found) + "\nok")


main.add_command(build)
main.add_command(evaluate_command)
main.add_command(calibrate_command)

if __name__ == "__main__":
    main()
