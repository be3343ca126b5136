"""Which pool a command of this folder asks: `--broker`, else RAGPOOL_BROKER, else what the configuration file says."""

from __future__ import annotations

import os

import click

from .asks import DEFAULT_BROKER

broker_option = click.option(
    "--broker", metavar="URL", help=f"Address of the pool.  [default: RAGPOOL_BROKER, else {DEFAULT_BROKER}]"
)
config_option = click.option("--config", metavar="FILE", help="Configuration file that names the pool's address.")


def address(broker: str | None, config: str | None) -> str | None:
    """None where nobody says: the client's own default. Raises `click.UsageError` for a file that is wrong."""
    if config is None:
        return broker
    from ..conf.endpoints import connect_address
    from ..conf.errors import ConfigurationError
    from ..conf.loader import load

    try:
        loaded = load(config, os.environ, {})
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None
    return broker or os.environ.get("RAGPOOL_BROKER") or connect_address(loaded.settings.broker.frontend)
