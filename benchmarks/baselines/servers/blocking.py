"""The design that this project replaces: FastAPI, and encode and search block inside `async def`. Also with uvicorn's workers."""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

from .work import Given, load

PATH = "/search"


class Question(BaseModel):
    query: str


def create_app() -> FastAPI:
    """One for each process of uvicorn."""
    answer = load(Given.from_environment())
    app = FastAPI()

    @app.post(PATH)
    async def search(question: Question) -> Response:
        return Response(answer([question.query])[0], media_type="application/json")

    return app


def main() -> None:
    given = Given.from_environment()
    uvicorn.run(
        f"{__package__}.blocking:create_app",
        factory=True,
        port=given.port,
        workers=given.workers,
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
