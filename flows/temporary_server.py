"""The server that Prefect starts for a command where none is configured."""

import signal
import subprocess
from typing import Any

from prefect.server.api.server import SubprocessASGIServer

from flows.signals import deaf_children


class DeafServer(SubprocessASGIServer):
    """Prefect's temporary server, deaf to Ctrl-C and SIGTERM; once made, it is the one that Prefect starts, and stops when the command ends.

    Terminals, `timeout` and service managers tell all that a command has started to end. Prefect's own server would do so at once, and the flow,
    which has yet to report its end, would call it in vain for a minute.
    """

    def _run_uvicorn_command(self) -> "subprocess.Popen[Any]":
        with deaf_children(signal.SIGINT, signal.SIGTERM):
            return super()._run_uvicorn_command()

    def stop(self) -> None:
        if self.server_process is not None:
            self.server_process.kill()
        super().stop()
