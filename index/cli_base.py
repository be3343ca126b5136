"""What the commands of `rag-index` share: options, settings, and one sentence for whatever goes wrong. Loads no torch."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from ..conf.loader import load
from ..conf.sentences import SentenceGroup
from ..conf.settings import Settings
from ..wire.errors import RagpoolError
from . import cli_text
from .errors import DeviceFull, EncodingFailed
from .manifest import read_manifest

config_option = click.option("--config", metavar="FILE", help="TOML, or the JSON of the older system.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
model_option = click.option("--model", metavar="M", help="Where the index's model is, if not by its own name.")
device_option = click.option(
    "--device", metavar="D", default="auto", help="cpu, cuda:N, or auto: the first CUDA device, else cpu."
)


class Failed(Exception):
    """The command did its work and found something wrong."""


class IndexGroup(SentenceGroup):
    failures = (Failed, DeviceFull, EncodingFailed, RagpoolError)


def settings_from(ctx: click.Context, config: str | None, flags: dict[str, object]) -> Settings:
    loaded = load(config or ctx.obj, os.environ, flags)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    return loaded.settings


def directory_of(settings: Settings) -> Path:
    if not settings.index.path:
        raise click.UsageError("name an index directory")
    return Path(settings.index.path)


def print_index(directory: Path, as_json: bool) -> None:
    manifest = read_manifest(directory)
    if as_json:
        click.echo(json.dumps({"path": str(directory), **json.loads(manifest.to_json())}, indent=2, ensure_ascii=False))
    else:
        click.echo(cli_text.table({"path": directory, **cli_text.facts(manifest)}))
