"""Addresses, and the run directory that follows from them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ragpool.conf.endpoints import IpcEndpoint, TcpEndpoint, parse_endpoint
from ragpool.conf.paths import RunPaths, backend_endpoint, connect_address, frontend_port, is_loopback, run_dir
from ragpool.conf.settings import BrokerSettings, ConfigurationError, PoolSettings, Settings


@pytest.mark.parametrize(
    ("endpoint", "parsed"),
    [
        ("tcp://127.0.0.1:5555", TcpEndpoint("127.0.0.1", 5555)),
        ("tcp://*:1", TcpEndpoint("*", 1)),
        ("tcp://gpu-7.cluster_a:65535", TcpEndpoint("gpu-7.cluster_a", 65535)),
        ("tcp://[::1]:5555", TcpEndpoint("::1", 5555)),
        ("tcp://[fe80::1%eth0]:5555", TcpEndpoint("fe80::1%eth0", 5555)),
        ("ipc:///run/pool.sock", IpcEndpoint("/run/pool.sock")),
    ],
)
def test_addresses(endpoint: str, parsed: object) -> None:
    assert parse_endpoint(endpoint) == parsed


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "5555",
        "localhost:5555",
        "tcp://:5555",
        "tcp://host",
        "tcp://host:",
        "tcp://host:*",
        "tcp://host:+5",
        "tcp://host:0",
        "tcp://host:99999",
        "tcp://host:5555/",
        "tcp://host:5555\n",
        "tcp://a b:5555",
        "tcp://::1:5555",
        "tcp://[::x]:5555",
        "tcp://[1.2.3.4]:5555",
        "tcp://a;b:5555",
        "TCP://host:5555",
        "http://host:5555",
        "inproc://x",
        "ipc://",
        "ipc://*",
        "ipc://@abstract",
        "ipc:///a\0b",
        "ipc:///" + "x" * 107,
    ],
)
def test_what_is_no_address(endpoint: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_endpoint(endpoint)


@given(st.text() | st.text().map("tcp://".__add__) | st.text().map("ipc://".__add__))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        connect_address(text)
        is_loopback(text)
    except ConfigurationError:
        pass


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:1", "tcp://127.9.9.9:1", "tcp://localhost:1", "tcp://[::1]:1", "ipc:///tmp/a.sock"]
)
def test_only_this_machine_reaches_these(endpoint: str) -> None:
    assert is_loopback(endpoint)


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://*:1",
        "tcp://0.0.0.0:1",
        "tcp://10.0.0.1:1",
        "tcp://[::]:1",
        "tcp://myhost:1",
        "tcp://localhost.example:1",
        "tcp://lo:1",
    ],
)
def test_others_may_reach_these(endpoint: str) -> None:
    assert not is_loopback(endpoint)


@pytest.mark.parametrize(
    ("bound", "connect"),
    [
        ("tcp://*:5555", "tcp://127.0.0.1:5555"),
        ("tcp://0.0.0.0:5555", "tcp://127.0.0.1:5555"),
        ("tcp://[::]:5555", "tcp://[::1]:5555"),
        ("tcp://10.0.0.1:5555", "tcp://10.0.0.1:5555"),
        ("ipc:///tmp/a.sock", "ipc:///tmp/a.sock"),
    ],
)
def test_where_a_local_client_connects(bound: str, connect: str) -> None:
    assert connect_address(bound) == connect


def settings(frontend: str = "tcp://127.0.0.1:5555", folder: str = "", backend: str = "") -> Settings:
    return Settings(pool=PoolSettings(run_dir=folder), broker=BrokerSettings(frontend=frontend, backend=backend))


def test_the_run_directory_follows_from_the_frontend() -> None:
    assert frontend_port("tcp://*:5600") == 5600
    runtime = {"XDG_RUNTIME_DIR": "/run/user/7"}
    assert run_dir(settings("tcp://*:5600"), runtime, 7, "/tmp") == Path("/run/user/7/ragpool-5600")
    assert run_dir(settings("tcp://*:5600"), {}, 7, "/tmp") == Path("/tmp/ragpool-7-5600")
    assert run_dir(settings(folder="/here"), runtime, 7, "/tmp") == Path("/here")


@pytest.mark.parametrize("runtime", ["", "relative/folder"])
def test_a_runtime_folder_that_says_nothing(runtime: str) -> None:
    assert run_dir(settings(), {"XDG_RUNTIME_DIR": runtime}, 7, Path("/tmp")) == Path("/tmp/ragpool-7-5555")


def test_ipc_frontends_have_run_directories_of_their_own() -> None:
    assert frontend_port("ipc:///tmp/a.sock") is None
    one, again, other = (run_dir(settings(f"ipc:///tmp/{name}.sock"), {}, 7, "/tmp") for name in "aab")
    assert one == again != other
    assert one.name.startswith("ragpool-7-")
    assert len(one.name) == len("ragpool-7-") + 10


def test_what_stands_in_a_run_directory() -> None:
    paths = RunPaths(Path("/run/p"))
    assert (paths.backend, paths.admin) == ("ipc:///run/p/backend.sock", "ipc:///run/p/admin.sock")
    assert (paths.state_file, paths.pid_file) == (Path("/run/p/state.json"), Path("/run/p/pid"))
    assert (paths.lock_file, paths.logs) == (Path("/run/p/lock"), Path("/run/p/logs"))
    assert backend_endpoint(settings(), paths) == paths.backend
    assert backend_endpoint(settings(backend="tcp://*:6000"), paths) == "tcp://*:6000"


@pytest.mark.parametrize("letter", ["x", "é"])
def test_a_run_directory_too_deep_for_a_socket(letter: str) -> None:
    room = 107 - len("/backend.sock") - 1
    width = len(letter.encode())
    fits = RunPaths(Path("/" + letter * (room // width)))
    assert parse_endpoint(fits.backend) == IpcEndpoint(fits.backend.removeprefix("ipc://"))
    with pytest.raises(ConfigurationError, match=r"107.*--run-dir"):
        RunPaths(Path("/" + letter * (room // width + 1)))
