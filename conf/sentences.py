"""How our commands speak of what went wrong: one sentence on stderr, exit code 2 for usage and configuration, 1 for failure."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from .errors import ConfigurationError

USAGE = 2
FAILURE = 1
INTERRUPTED = 130


class SentenceCommand(click.Command):
    """A command whose errors are sentences, those of its usage too. Its name is the program's; `failures` are its own errors."""

    failures: tuple[type[Exception], ...] = ()

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        with sentences(self.name or "ragpool", self.failures):
            code = super().main(*args, **{"prog_name": self.name, **kwargs, "standalone_mode": False})
            sys.exit(code if isinstance(code, int) else 0)


class SentenceGroup(SentenceCommand, click.Group):
    """The same for a command with commands of its own."""


@contextlib.contextmanager
def sentences(program: str, failures: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Inside it, what comes from outside and is wrong ends the program; `failures` are its own errors, beside `OSError`."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(USAGE)
    except click.UsageError as error:
        message, code = error.format_message(), USAGE
    except ConfigurationError as error:
        message, code = str(error), USAGE
    except failures as error:
        message, code = str(error), FAILURE
    except BrokenPipeError:
        raise
    except OSError as error:
        message, code = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", FAILURE
    except (KeyboardInterrupt, click.Abort):
        message, code = "interrupted", INTERRUPTED
    else:
        return
    click.echo(f"{program}: {message}", err=True)
    sys.exit(code)
