"""Commands that are told to end: one sentence, the exit code of shells, and no process left."""

import os
import pty
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import REPOSITORY
from distributed import Client

from flows.clusters import ClusterSettings
from flows.signals import code_of_signal


class Command:
    """`mammo ARGUMENTS` in a terminal of its own."""

    def __init__(self, *arguments: object) -> None:
        self.said = b""
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(REPOSITORY)
            os.execv(sys.executable, [sys.executable, "-m", "flows.cli", *map(str, arguments)])
        self.process = psutil.Process(self.pid)

    def listen_for(self, word: str) -> None:
        while word.encode() not in self.said:
            self.said += os.read(self.terminal, 65536)

    def end(self) -> int:
        """Its exit code, after all that it said."""
        try:
            while data := os.read(self.terminal, 65536):
                self.said += data
        except OSError:
            # Linux: nobody has the terminal open any more.
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def ctrl_c(command: Command) -> None:
    os.write(command.terminal, b"\x03")


def terminate(command: Command) -> None:
    os.kill(command.pid, signal.SIGTERM)


def terminate_all(command: Command) -> None:
    os.killpg(command.pid, signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize(("tell", "code"), [(ctrl_c, 130), (terminate, 143), (terminate_all, 143)])
def test_a_build_that_is_told_to_end(
    tell: Callable[[Command], None], code: int, phantoms: Path, tmp_path: Path
) -> None:
    sources = [f"--source={kind}={phantoms / kind}" for kind in ("cbis-ddsm", "ddsm")]
    build = Command("build", *sources, "--workspace", tmp_path, "--set", "inventory.mixed_ddsm=all")
    build.listen_for("convert")
    started = build.process.children(recursive=True)
    assert any("uvicorn" in process.cmdline() for process in started)
    told = time.monotonic()
    tell(build)
    assert build.end() == code
    # Prefect tried to reach its dead server for 70 seconds.
    assert time.monotonic() - told < 40
    said = build.said.decode().replace("\r", "")
    assert "mammo: interrupted; what is done is kept, and the same command goes on from there" in said
    # Workers that get SIGTERM themselves die at any point of a message, which distributed may log as it likes.
    assert tell is terminate_all or not re.search("Traceback|Crash", said)
    assert not psutil.wait_procs(started, timeout=5)[1]


def test_workers_leave_ctrl_c_to_the_command(cluster: ClusterSettings) -> None:
    with Client(cluster.address, set_as_default=False) as client:
        masks = client.run(signal.pthread_sigmask, signal.SIG_BLOCK, [])
    assert len(masks) == 2
    assert all(signal.SIGINT in mask for mask in masks.values())
    # The command itself hears it.
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def report_a_ctrl_c() -> None:
    try:
        raise KeyboardInterrupt
    finally:
        raise ValueError("the report of it failed")


def test_an_error_that_a_signal_led_to() -> None:
    assert code_of_signal(None) is None
    assert code_of_signal(ValueError("x")) is None
    assert code_of_signal(SystemExit(2)) is None
    assert code_of_signal(SystemExit(143)) == 143
    with pytest.raises(ValueError, match="failed") as raised:
        report_a_ctrl_c()
    assert code_of_signal(raised.value) == 130
