"""What mammo's loggers say on workers, in the log of a flow run: as Prefect would send it to its server."""

import logging
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from prefect.logging.handlers import set_api_log_sink
from test_fan_out import fail_thrice

from flows import run_log
from flows.clusters import ClusterSettings, open_client
from flows.fan_out import fan_out

RUN = str(uuid.uuid4())


@pytest.fixture(scope="module")
def client(cluster: ClusterSettings) -> Iterator[Client]:
    with open_client(cluster) as client:
        yield client


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What is sent to Prefect's server, in the context of a flow run."""
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(run_log, "_run", lambda: {"flow_run_id": RUN, "flow_run_name": "a run"})
    set_api_log_sink(lines.append)
    yield lines
    set_api_log_sink(None)
    for name in run_log._LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.NOTSET)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)


def say(number: int) -> int:
    logging.getLogger("mammo_etl.convert").info("rejected, number %d", number)
    logging.getLogger("mammo_etl.convert").debug("in passing")
    logging.getLogger("pydicom").error("the value of a header")
    return number


def items(count: int) -> list[tuple[str, int]]:
    return [(f"film-{number}", number) for number in range(count)]


def messages(lines: list[dict[str, Any]]) -> list[str]:
    return sorted(line["message"] for line in lines)


def test_lines_of_workers_name_their_item_and_their_run(client: Client, sent: list[dict[str, Any]]) -> None:
    assert len(list(fan_out(client, say, items(4)))) == 4
    assert messages(sent) == [f"film-{number}: rejected, number {number}" for number in range(4)]
    assert {(line["flow_run_id"], line["name"], line["level"]) for line in sent} == {(RUN, "mammo_etl.convert", 20)}


def test_every_item_is_told_of_where_prefect_is_to_log_at_debug(
    client: Client, sent: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("prefect.task_runs"), "level", logging.DEBUG)
    list(fan_out(client, say, items(2)))
    told = [re.sub(r"[0-9.]+ seconds", "so many seconds", text) for text in messages(sent)]
    assert told == [
        f"film-{number}: {text}"
        for number in range(2)
        for text in ("ended after so many seconds", "in passing", f"rejected, number {number}")
    ]


def test_two_clients_of_one_cluster_do_not_hear_each_other(
    client: Client, cluster: ClusterSettings, sent: list[dict[str, Any]]
) -> None:
    with open_client(cluster) as other:
        first, second = fan_out(client, say, items(5)), fan_out(other, say, [("other", 99)])
        assert len(list(zip(first, second, strict=False))) == 1
        assert len(list(first)) == 3
    # Each line once, though both clients hear of all.
    assert messages(sent) == [
        *(f"film-{number}: rejected, number {number}" for number in range(5)),
        "other: rejected, number 99",
    ]


def test_a_step_that_rejects_everything_does_not_flood_the_server(
    client: Client, sent: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "_MOST_LINES", 10)
    list(fan_out(client, say, items(30)))
    assert len(sent) == 11
    assert sent[-1]["message"] == "and so on: this step's lines after 10 are left out"


def test_what_was_tried_again_or_given_up_is_told(
    client: Client, sent: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.fan_out._PAUSES", (0.05, 0.1, 0.2))
    list(fan_out(client, fail_thrice, [("film-5", (5, str(tmp_path)))]))
    fault = "OSError: [Errno 116] Stale file handle"
    assert [line["message"] for line in sent] == [
        *(f"film-5: tried again in {pause} seconds, after {fault}" for pause in (0.05, 0.1, 0.2)),
        f"film-5: given up, unreachable: Work on film-5 failed 4 times, at last by {fault}",
    ]


def test_outside_a_flow_run_workers_send_nothing(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    before = client.get_events(run_log._TOPIC)
    list(fan_out(client, say, items(3)))
    assert client.get_events(run_log._TOPIC) == before
    assert caplog.records == []


def test_the_terminal_keeps_to_warnings(sent: list[dict[str, Any]], caplog: pytest.LogCaptureFixture) -> None:
    run_log.attach()
    for logger in ("mammo_etl.lock", "other"):
        logging.getLogger(logger).info("a fact")
        logging.getLogger(logger).warning("a warning")
    assert messages(sent) == ["a fact", "a warning"]
    # As the handlers of the terminal, pytest's is one of the root logger's.
    assert [(record.name, record.message) for record in caplog.records] == [
        ("mammo_etl.lock", "a warning"),
        ("other", "a warning"),
    ]
