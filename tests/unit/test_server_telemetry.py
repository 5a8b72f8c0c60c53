"""Logs are JSON, carry the request id, and withhold what is confidential (otr_server.telemetry)."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from otr_server import telemetry


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    stream = io.StringIO()
    telemetry.configure("info", service="otr-test", stream=stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:], root.level = before


def lines(output: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_a_line_is_one_json_object(output: io.StringIO) -> None:
    structlog.get_logger("x").info("leaf_added", leaf_index=3, digest=b"\x01\x02", big=bytes(65))
    (line,) = lines(output)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "leaf_added",
        "level": "info",
        "service": "otr-test",
        "leaf_index": 3,
        "digest": "0102",
        "big": "[65 bytes]",
    }


def test_lines_within_a_call_carry_its_request_id(output: io.StringIO) -> None:
    log = structlog.get_logger()
    with telemetry.request_scope("r-1", method="/a/b"):
        log.info("within")
        assert telemetry.current_request_id() == "r-1"
    log.info("after")
    within, after = lines(output)
    assert (within["request_id"], within["method"]) == ("r-1", "/a/b")
    assert "request_id" not in after
    assert telemetry.current_request_id() is None


def test_confidential_values_are_withheld(output: io.StringIO) -> None:
    structlog.get_logger().info(
        "x",
        salt=b"s",
        api_secret="s",
        prompt="my illness",
        attestation_token="ey",
        inner={"private_key": "k", "session_key": "public"},
        token_count=3,
    )
    (line,) = lines(output)
    for key in ("salt", "api_secret", "prompt", "attestation_token"):
        assert line[key] == "[withheld]"
    assert line["inner"] == {"private_key": "[withheld]", "session_key": "public"}
    assert line["token_count"] == 3


def test_levels_below_the_setting_are_silent(output: io.StringIO) -> None:
    structlog.get_logger().debug("quiet")
    logging.getLogger("library").debug("quiet")
    assert lines(output) == []


def test_libraries_that_use_logging_come_out_alike(output: io.StringIO) -> None:
    with telemetry.request_scope("r-2"):
        logging.getLogger("grpc._cython").warning("odd %s", "thing")
    (line,) = lines(output)
    assert line["event"] == "odd thing"
    assert line["logger"] == "grpc._cython"
    assert line["request_id"] == "r-2"


def test_a_traceback_is_one_line(output: io.StringIO) -> None:
    try:
        raise ZeroDivisionError("zero")
    except ZeroDivisionError as error:
        structlog.get_logger().error("failed", exc_info=error)
    (line,) = lines(output)
    assert "ZeroDivisionError: zero" in line["exception"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(telemetry.LogLevelError) as caught:
        telemetry.configure("loud")
    assert caught.value.field == "log_level"


@pytest.mark.parametrize("value", ["", "a b", "line\nbreak", "x" * 129, "ä", b"bytes"])
def test_a_malformed_request_id_is_replaced(value: str | bytes) -> None:
    fresh = telemetry.request_id_from([("x-request-id", value)])
    assert fresh != value
    assert len(fresh) == 32


def test_a_request_id_is_taken_from_the_metadata() -> None:
    assert telemetry.request_id_from([("a", "b"), ("x-request-id", "r/1.2:3")]) == "r/1.2:3"
    assert telemetry.request_id_from(None) != telemetry.request_id_from(None)
