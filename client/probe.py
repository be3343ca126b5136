"""`python -m ragpool.client.probe URL`: one real question through the front door. Exit 0 when passages came back, else 1.

Whoever starts a pool runs it to know that the pool serves; it prints nothing but the sentence that says why not.
"""

from __future__ import annotations

import argparse
import sys

from ..wire.errors import RagpoolError
from .sync import Client

QUESTION = "what is python"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="ragpool.client.probe", description="Ask a pool one question.")
    parser.add_argument("url", metavar="URL", help="address of the pool's frontend")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="how long to wait (default: 600)")
    chosen = parser.parse_args(arguments)
    try:
        with Client(chosen.url, timeout=chosen.timeout, connect_timeout=chosen.timeout) as client:
            hits = client.search(QUESTION, top_k=1)
    except RagpoolError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 1
    if not hits:
        sys.stderr.write("the pool answered without a passage\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
