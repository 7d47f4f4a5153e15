"""What a run writes to standard error of itself: lines for people, or JSON, one object per line, for log collectors.

Fields of JSON: time, level, logger, message. If known, also run_id, deliberation_id, agent_id, phase, error_type,
status, seconds and tokens. No field contains a model's text.
"""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

OURS = "fleet_pipeline"
_FIELDS = "fields"


def fields(**values: object) -> Mapping[str, object]:
    """The value for `extra` of a log call that adds these fields."""
    return {_FIELDS: values}


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON. Dagster's records also have `run_id` and `step_key`."""

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


class TextHandler(logging.StreamHandler):  # type: ignore[type-arg]
    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))


def install_json() -> None:
    """Write this project's own logs as JSON to standard error. Further calls change nothing."""
    _install(JsonHandler())
    logging.getLogger(OURS).propagate = False


def install_text() -> None:
    """Write this project's own logs as lines to standard error, where they are not written as JSON."""
    if not any(isinstance(one, JsonHandler) for one in logging.getLogger(OURS).handlers):
        _install(TextHandler())


def _install(handler: logging.Handler) -> None:
    logger = logging.getLogger(OURS)
    logger.handlers = [one for one in logger.handlers if not isinstance(one, (JsonHandler, TextHandler))]
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
