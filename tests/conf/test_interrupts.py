"""Ctrl-C while a command is still importing."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from ragpool.conf.interrupts import quiet_interrupts

INTERRUPTED = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == 'click':
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from ragpool.{folder}.__main__ import main
main()
"""


@pytest.mark.process
@pytest.mark.parametrize("folder", ["broker", "worker", "client", "index"])
def test_it_ends_without_a_traceback(folder: str) -> None:
    code = INTERRUPTED.format(folder=folder)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr == ""
    assert ended.returncode == -signal.SIGINT


def test_afterwards_and_elsewhere_it_is_as_before() -> None:
    with quiet_interrupts():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with quiet_interrupts():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN, "a pool in the background of a script"
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
