"""The log of a flow run: what mammo's loggers say in the flow's process, and on the workers of its cluster.

Prefect keeps what is logged in the context of a run, and a worker has none. So the lines of workers travel as Dask's events, each with the name of
the item that it was logged of, and are handed to the same loggers here. (`Client.forward_logging` goes the same way, but every client of a
cluster hears the lines of all of them, none has a name, and the first to leave ends it for the others.)

A run's log has INFO, which is what was left out, given up or tried again, and DEBUG, which is every item, where Prefect's own level asks for that
(PREFECT_LOGGING_LEVEL=DEBUG). The terminal has bars and summaries, and keeps to warnings. Outside a flow run nothing is sent.
"""

import logging
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from distributed import get_worker

if TYPE_CHECKING:
    from distributed import Client

_LOGGERS = ("flows", "mammo_etl", "mammo_model")
"""With all below them. Others stay where they are: what libraries log may quote values of a header."""

_TOPIC = "mammo-log"
"""One for all steps: a scheduler never forgets a topic, nor its latest thousand events."""

_MOST_LINES = 1000
"""INFO lines of one step that are kept. Ten times as many films may be rejected at once, and `rejects.parquet` has them all."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a step wants to hear from workers; travels with each item."""

    step: str
    """Unique among all clients of the scheduler."""
    level: int


_item: ContextVar[tuple[Wanted, str] | None] = ContextVar("_item", default=None)
"""The item under way in this thread of a worker."""


class _ToClient(logging.Handler):
    """Sends what is logged of an item to all clients; each takes what its own steps want."""

    def emit(self, record: logging.LogRecord) -> None:
        wanted, name = _item.get() or (None, "")
        if wanted is not None and record.levelno >= wanted.level:
            line = {"logger": record.name, "level": record.levelno, "created": record.created}
            get_worker().log_event(_TOPIC, {"step": wanted.step, "item": name, "text": record.getMessage(), **line})


_to_client = _ToClient()


@contextmanager
def item_named(name: str, wanted: Wanted | None) -> Iterator[None]:
    """On a worker: what mammo's loggers say within goes to the flow run, as said of that item."""
    if wanted is None:
        yield
        return
    _attach(_to_client, wanted.level)
    token = _item.set((wanted, name))
    try:
        yield
    finally:
        _item.reset(token)


class StepLog:
    """What is logged of the items of one step."""

    def __init__(self, wanted: Wanted | None, run: Mapping[str, Any]) -> None:
        self.wanted = wanted
        """None outside a flow run."""
        self._run = run
        self._lines = 0

    def tell(
        self, item: str, text: str, level: int = logging.INFO, logger: str = __name__, created: float | None = None
    ) -> None:
        """Logs a sentence on an item, as if its logger had been told in the context of the step."""
        if self.wanted is None or level < self.wanted.level:
            return
        if level == logging.INFO:
            self._lines += 1
            if self._lines > _MOST_LINES + 1:
                return
            if self._lines > _MOST_LINES:
                item, text = "and so on", f"this step's lines after {_MOST_LINES:,} are left out"
        created = time.time() if created is None else created
        record = {
            **self._run,
            "name": logger,
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "created": created,
            "msecs": created % 1 * 1000,
            "msg": f"{item}: {text}",
        }
        logging.getLogger(logger).handle(logging.makeLogRecord(record))


_steps: dict[tuple[str, str], StepLog] = {}
"""Those under way in this process, by the client's id and their own."""


@contextmanager
def listening(client: "Client") -> Iterator[StepLog]:
    """The log of a step whose items are worked on by that client's cluster; to be used in the context of its flow run, if there is one."""
    run = _run()
    if run is None:
        yield StepLog(None, {})
        return
    wanted = Wanted(uuid.uuid4().hex, attach())
    key = client.id, wanted.step
    _steps[key] = StepLog(wanted, run)
    try:
        client.subscribe_topic(_TOPIC, partial(_heard, client.id))
        yield _steps[key]
    finally:
        del _steps[key]


def _heard(client: str, event: tuple[float, dict[str, Any]]) -> None:
    _, line = event
    log = _steps.get((client, line["step"]))
    if log is not None:
        log.tell(line["item"], line["text"], line["level"], line["logger"], line["created"])


def attach() -> int:
    """Has mammo's loggers write to the log of the flow run that it is called in; the level from which they do."""
    # Commands set Prefect's own to WARNING, for the terminal's sake.
    level = min(logging.getLogger("prefect.task_runs").getEffectiveLevel(), logging.INFO)
    _attach(_api_handler(), level)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_for_terminal)
    return level


def _attach(handler: logging.Handler, level: int) -> None:
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if handler not in logger.handlers:
            logger.addHandler(handler)
        if logger.level == logging.NOTSET or logger.level > level:
            logger.setLevel(level)


_api: list[logging.Handler] = []
_api_lock = threading.Lock()


def _api_handler() -> logging.Handler:
    """Prefect's handler, the same one at each call."""
    from prefect.logging.handlers import APILogHandler

    with _api_lock:
        if not _api:
            handler = APILogHandler()
            handler.addFilter(_of_a_run)
            _api.append(handler)
    return _api[0]


def _of_a_run(record: logging.LogRecord) -> bool:
    """Whether the flow run of a record is known; of others, as those of a thread that keeps a lock, Prefect would only warn that it is not."""
    if not hasattr(record, "flow_run_id"):
        record.__dict__.update(_run() or {})
    return hasattr(record, "flow_run_id")


def _for_terminal(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] not in _LOGGERS


def _run() -> Mapping[str, Any] | None:
    """What Prefect's loggers add to a record to tell its flow run, and its task; None outside a flow run, or if it has no log."""
    # Prefect is imported where it is used: that takes seconds.
    if "prefect" not in sys.modules:
        return None
    from prefect.context import FlowRunContext, TaskRunContext
    from prefect.logging import get_run_logger

    if FlowRunContext.get() is None and TaskRunContext.get() is None:
        return None
    logger = get_run_logger()
    # Another kind where Prefect's logs are switched off.
    return logger.extra if isinstance(logger, logging.LoggerAdapter) else None
