"""LitServe: its own batching, `workers` inference processes, one API server."""

from __future__ import annotations

import litserve
from fastapi import Response

from .work import BATCH_WAIT_S, Answer, Given, load

PATH = "/search"


class Search(litserve.LitAPI):
    _answer: Answer

    def setup(self, device: str) -> None:
        self._answer = load(Given.from_environment())

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # an annotation would be taken for a form of FastAPI
        return str(request["query"])

    def batch(self, inputs: list[str]) -> list[str]:
        return list(inputs)

    def predict(self, queries: list[str]) -> list[bytes]:
        return self._answer(queries)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="application/json")


def main() -> None:
    given = Given.from_environment()
    api = Search(max_batch_size=given.batch, batch_timeout=BATCH_WAIT_S, api_path=PATH)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=given.workers, timeout=False, fast_queue=True)
    server.run(host="127.0.0.1", port=given.port, num_api_servers=1, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
