"""Logs as JSON, one object a line, for those who collect them.

Fields: time, level, logger, message, and whatever of run_id, deliberation_id, agent_id, phase, error_type,
status, seconds and tokens is known. No text of a model is among them.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

OURS = "fleet_pipeline"
_FIELDS = "fields"


def fields(**values: Any) -> dict[str, Any]:
    """For `extra` of a log call."""
    return {_FIELDS: values}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON. Dagster's records bring the run's and the step's ids."""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        meta = getattr(record, "dagster_meta", None) or {}
        document |= {name: meta[name] for name in ("run_id", "step_key") if meta.get(name)}
        document |= getattr(record, _FIELDS, {})
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str, ensure_ascii=False)


class JsonHandler(logging.StreamHandler):  # type: ignore[type-arg]
    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(JsonFormatter())


def install_json() -> None:
    """Have this project's own logs written as JSON to standard error. Twice is once."""
    logger = logging.getLogger(OURS)
    logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, JsonHandler)]
    logger.addHandler(JsonHandler())
    logger.setLevel(logging.INFO)
    logger.propagate = False
