"""`rag-worker` begins here: nothing of weight is imported before Ctrl-C is taken care of. Also `python -m ragpool.worker`."""

from __future__ import annotations

from ..conf.interrupts import quiet_interrupts


def main() -> None:
    """The command itself."""
    with quiet_interrupts():
        from .cli import main as command
    command()


if __name__ == "__main__":
    main()
