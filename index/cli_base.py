"""What the commands of `rag-index` share: options, settings, and one sentence for whatever goes wrong. Loads no torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from ..conf.loader import load
from ..conf.settings import ConfigurationError, Settings
from ..wire.errors import RagpoolError
from . import cli_text
from .manifest import read_manifest

config_option = click.option("--config", metavar="FILE", help="TOML, or the JSON of the older system.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
model_option = click.option("--model", metavar="M", help="Where the index's model is, if not by its own name.")
device_option = click.option(
    "--device", metavar="D", default="auto", help="cpu, cuda:N, or auto: the first CUDA device, else cpu."
)


class Failed(Exception):
    """The command did its work and found something wrong."""


class SentenceGroup(click.Group):
    """Whatever is wrong with what came from outside is one sentence on stderr: 2 for usage and configuration, 1 for failure."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            message, code = error.format_message(), 2
        except ConfigurationError as error:
            message, code = str(error), 2
        except Failed as error:
            message, code = str(error), 1
        except RagpoolError as error:
            message, code = str(error), 1
        except BrokenPipeError:
            raise
        except OSError as error:
            message, code = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1
        except KeyboardInterrupt:
            message, code = "interrupted", 130
        click.echo(f"rag-index: {message}", err=True)
        return ctx.exit(code)


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
