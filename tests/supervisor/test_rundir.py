"""The run directory and state.json, on a real file system."""

import json
import os
import signal
import subprocess
import sys

import pytest
from ragpool.conf.paths import RunPaths
from ragpool.conf.settings import ConfigurationError
from ragpool.supervisor.rundir import claim, pool_pid, wait_until_released
from ragpool.supervisor.state import StateFile, read_state


def mode(path):
    return path.stat().st_mode & 0o777


def test_claimed_it_is_private_and_ours(short_dir):
    paths = RunPaths(short_dir / "deep" / "run")
    assert pool_pid(paths) is None
    with claim(paths):
        assert mode(paths.root) == 0o700
        assert mode(paths.logs) == 0o700
        assert pool_pid(paths) == os.getpid()
        assert not wait_until_released(paths, 0.05)
    assert pool_pid(paths) is None
    assert wait_until_released(paths, 0.0)
    assert not paths.pid_file.exists()
    with claim(paths):
        pass


def test_a_second_pool_is_told_who_holds_it(short_dir):
    paths = RunPaths(short_dir / "run")
    with (
        claim(paths),
        pytest.raises(ConfigurationError, match=f"a pool already runs in .*run, held by process {os.getpid()}"),
        claim(paths),
    ):
        pass
    assert pool_pid(paths) is None


def test_looking_at_the_lock_is_no_pool(short_dir):
    """Many `status` commands while a pool starts."""
    paths = RunPaths(short_dir / "run")
    with claim(paths):
        pass
    program = f"""
from pathlib import Path
from ragpool.conf.paths import RunPaths
from ragpool.supervisor.rundir import pool_pid
print("looking", flush=True)
while True: pool_pid(RunPaths(Path({str(paths.root)!r})))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as looker:
        try:
            looker.stdout.readline()
            for _ in range(50):
                with claim(paths):
                    pass
        finally:
            looker.kill()


def test_a_child_does_not_hold_the_lock(short_dir):
    """Not even one that inherits all it can from a parent that is killed."""
    paths = RunPaths(short_dir / "run")
    program = f"""
import os, subprocess, sys
from pathlib import Path
from ragpool.conf.paths import RunPaths
from ragpool.supervisor.rundir import claim
with claim(RunPaths(Path({str(paths.root)!r}))):
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    print(child.pid, flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        try:
            assert pool_pid(paths) == parent.pid
            parent.kill()
            parent.wait()
            assert wait_until_released(paths, 5.0)
        finally:
            os.kill(child, signal.SIGKILL)


def test_an_open_folder_of_ours_is_closed_and_one_with_other_things_refused(short_dir):
    root = short_dir / "run"
    root.mkdir()
    root.chmod(0o755)
    with claim(RunPaths(root)):
        assert mode(root) == 0o700
    root.chmod(0o755)
    with claim(RunPaths(root)):
        assert mode(root) == 0o700
    other = short_dir / "other"
    other.mkdir()
    other.chmod(0o777)
    (other / "letter").write_text("dear")
    with pytest.raises(ConfigurationError, match="open to other users and holds other things"), claim(RunPaths(other)):
        pass
    assert mode(other) == 0o777


def test_what_is_no_folder_of_ours_is_refused(short_dir):
    (short_dir / "file").write_text("")
    (short_dir / "link").symlink_to(short_dir)
    for name in ("file", "link"):
        with pytest.raises(ConfigurationError, match="is not a directory"), claim(RunPaths(short_dir / name)):
            pass
    with pytest.raises(ConfigurationError, match="cannot be used: "), claim(RunPaths(short_dir / "file" / "run")):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(short_dir):
    root = short_dir / "run"
    root.mkdir(mode=0o700)
    os.chown(root, 12345, 12345)
    with pytest.raises(ConfigurationError, match="belongs to another user"), claim(RunPaths(root)):
        pass


def test_the_state_file_is_replaced_as_a_whole(short_dir):
    file = StateFile(short_dir / "state.json")
    assert read_state(short_dir / "state.json") is None
    assert file.write({"pool": {"pid": 1}})
    assert read_state(short_dir / "state.json") == {"pool": {"pid": 1}}
    assert [entry.name for entry in short_dir.iterdir()] == ["state.json"]
    assert mode(short_dir / "state.json") == 0o600


def test_a_disk_that_is_full_costs_the_news_and_nothing_else(short_dir):
    """/dev/full stands for the disk."""
    file = StateFile(short_dir / "state.json")
    assert file.write({"pool": {"pid": 1}})
    (short_dir / "state.json.new").symlink_to("/dev/full")
    assert not file.write({"pool": {"pid": 2}})
    assert "No space left" in file.failure
    assert read_state(short_dir / "state.json") == {"pool": {"pid": 1}}
    (short_dir / "state.json.new").unlink()
    assert file.write({"pool": {"pid": 3}})
    assert file.failure is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_state_that_cannot_be_read_is_none(short_dir, content):
    (short_dir / "state.json").write_bytes(content)
    assert read_state(short_dir / "state.json") is None


def test_the_documents_are_json(short_dir):
    assert json.dumps(read_state(short_dir / "nothing")) == "null"
