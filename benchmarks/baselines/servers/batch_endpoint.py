"""A retrieval server in the manner of Search-R1: one endpoint that takes a list of queries, run in FastAPI's thread pool.

Its callers send one query a call, as agents do. The threads of one process take turns: a fast tokenizer serves one at a time.
"""

from __future__ import annotations

import threading

import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

from .work import Given, load

PATH = "/retrieve"


class Questions(BaseModel):
    queries: list[str]


def create_app() -> FastAPI:
    """One for each process of uvicorn."""
    answer = load(Given.from_environment())
    turn = threading.Lock()
    app = FastAPI()

    @app.post(PATH)
    def retrieve(questions: Questions) -> Response:
        with turn:
            bodies = answer(questions.queries)
        return Response(b'{"result": [' + b", ".join(bodies) + b"]}", media_type="application/json")

    return app


def main() -> None:
    given = Given.from_environment()
    uvicorn.run(
        f"{__package__}.batch_endpoint:create_app",
        factory=True,
        port=given.port,
        workers=given.workers,
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
