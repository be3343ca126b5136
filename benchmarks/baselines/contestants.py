"""Who takes part, how each is started, and how it is asked.

Every server is asked by what is cheapest for it: ours by `AsyncClient`, the others by a lean HTTP client with kept-alive
connections. Each answer is decoded whole.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from ragpool.client import AsyncClient, RagpoolError
from ragpool.conf.cores import thread_environment, usable_cores

from .driver import Ask, AskFailed
from .http1 import HttpClient, HttpFailed
from .ideal import Stages
from .processes import DidNotStart, Server, free_port, started
from .records import OURS, PLUGGED, STOCK, Contestant
from .servers.work import TOP_K, Given

START_S = 180.0
PROBE_S = 30.0
SETTLE_S = 30.0
REST_S = 0.4
REST_SHARE = 0.25
"""A server rests where all its processes together use less of a core than this, twice in a row."""

PROBE = "what was the first question ever asked"
BENCHMARKS = Path(__file__).resolve().parent.parent
WORKERS = 2

_FRAMEWORKS = (
    Contestant("FastAPI, blocking", "blocking", "/search", STOCK),
    Contestant("uvicorn --workers 2", "blocking", "/search", STOCK, workers=2),
    Contestant("batch endpoint", "batch_endpoint", "/retrieve", STOCK, tune_workers=True),
    Contestant("LitServe", "lit", "/search", STOCK, batches=True, tune_workers=True, batch=16, workers=WORKERS),
    Contestant("mosec", "mosec_server", "/inference", STOCK, batches=True, tune_workers=True, batch=16, workers=WORKERS),
    Contestant("Ray Serve", "ray_serve", "/", STOCK, batches=True, tune_workers=True, batch=16, workers=WORKERS),
)


def pool() -> Contestant:
    return Contestant("ragpool", "", "", OURS, workers=WORKERS)


def others() -> list[Contestant]:
    """Every other server, stock and with our encoder and engine, before tuning."""
    return [replace(framework, kind=kind) for framework in _FRAMEWORKS for kind in (STOCK, PLUGGED)]


@dataclass(frozen=True)
class Serving:
    """A contestant that gives answers. `stages`: what workers of ours told with each of them."""

    server: Server
    ask: Ask
    worker_pids: tuple[int, ...] = ()
    stages: list[Stages] = field(default_factory=list)


@asynccontextmanager
async def serving(contestant: Contestant, index: Path, python: str) -> AsyncIterator[Serving]:
    """The contestant, running and answering. Raises `DidNotStart` with the reason where it does not come to that."""
    if contestant.kind == OURS:
        async with _pool(contestant, index) as found:
            yield found
        return
    given = Given(str(index), contestant.kind, free_port(), contestant.batch, contestant.workers)
    environment = {
        **thread_environment(max(1, usable_cores() // contestant.workers)),
        **given.environment(),
        "PYTHONPATH": str(BENCHMARKS),
        "PYTHONWARNINGS": "ignore",
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray makes one and leaves it in the home folder
    }
    with started([python, "-m", f"{__package__}.servers.{contestant.module}"], environment) as server:
        client = HttpClient(given.port, contestant.path)
        lists = contestant.module == "batch_endpoint"
        ask = http_ask(client, _batch_body if lists else json_body, _batch_hits if lists else json_hits)
        try:
            await _until_answering(server, ask)
            await until_settled(server)
            yield Serving(server, ask)
        finally:
            client.close()


@asynccontextmanager
async def _pool(contestant: Contestant, index: Path) -> AsyncIterator[Serving]:
    url = f"tcp://127.0.0.1:{free_port()}"
    command = [str(Path(sys.executable).parent / "rag-broker"), "start", "--index", str(index), "--device", "cpu"]
    command += ["--workers", str(contestant.workers), "--frontend", url]
    environment = {"HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="bl-") as folder, started([*command, "--run-dir", folder], environment) as server:
        async with AsyncClient(url) as client:
            stages: list[Stages] = []
            ask = pool_ask(client, stages)
            await _until_answering(server, ask)
            await until_settled(server)
            slots = (await client.status())["slots"]
            yield Serving(server, ask, tuple(slot["pid"] for slot in slots if slot["pid"]), stages)


async def _until_answering(server: Server, ask: Ask) -> None:
    give_up = asyncio.get_running_loop().time() + START_S
    reason = ""
    while asyncio.get_running_loop().time() < give_up:
        if server.process.poll() is not None:
            raise DidNotStart(f"it ended with {server.process.returncode}: {server.last_words()}")
        try:
            await asyncio.wait_for(ask(PROBE), PROBE_S)
            return
        except AskFailed as error:
            reason = str(error)
        except asyncio.TimeoutError:
            reason = "no answer"
        await asyncio.sleep(0.2)
    raise DidNotStart(f"no answer within {START_S:g} s ({reason}): {server.last_words()}")


async def until_settled(server: Server) -> None:
    """Until the server rests: after its first answer others of its processes may load, and after a load it may still catch up."""
    quiet, used = 0, server.cpu_s()
    give_up = asyncio.get_running_loop().time() + SETTLE_S
    while quiet < 2 and asyncio.get_running_loop().time() < give_up:
        await asyncio.sleep(REST_S)
        before, used = used, server.cpu_s()
        quiet = quiet + 1 if used - before < REST_SHARE * REST_S else 0


# ---- how they are asked --------------------------------------------------------------------------------------------


def http_ask(client: HttpClient, body: Callable[[str], bytes], hits: Callable[[bytes], list[dict[str, str]]]) -> Ask:
    async def ask(query: str) -> list[str]:
        try:
            ids = [hit["id"] for hit in hits(await client.post(body(query)))]
        except HttpFailed as error:
            raise AskFailed(str(error)) from None
        except (ValueError, LookupError, TypeError) as error:
            raise AskFailed(f"an answer of another shape came: {error!r}") from None
        if len(ids) != TOP_K:
            raise AskFailed(f"{len(ids)} passages came")
        return ids

    return ask


def json_body(query: str) -> bytes:
    return json.dumps({"query": query}).encode()


def json_hits(answer: bytes) -> list[dict[str, str]]:
    hits: list[dict[str, str]] = json.loads(answer)["hits"]
    return hits


def _batch_body(query: str) -> bytes:
    return json.dumps({"queries": [query]}).encode()


def _batch_hits(answer: bytes) -> list[dict[str, str]]:
    hits: list[dict[str, str]] = json.loads(answer)["result"][0]["hits"]
    return hits


def pool_ask(client: AsyncClient, stages: list[Stages]) -> Ask:
    """`stages` grows by what is told with each answer, the time in the broker's queue aside."""

    async def ask(query: str) -> list[str]:
        try:
            found = await client.search(query, top_k=TOP_K)
        except RagpoolError as error:
            raise AskFailed(str(error)) from None
        if len(found) != TOP_K:
            raise AskFailed(f"{len(found)} passages came")
        stages.append(tuple(ms for stage, ms in found.timings_ms.items() if stage != "queue"))
        return [hit.id for hit in found]

    return ask
