"""The log on stderr: lines for people, or JSON lines."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging`."""
        content: dict[str, Any] = {
            "time": f"{_time(record)}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
        }
        if message := record.getMessage():
            content["message"] = message
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return _encode(content | getattr(record, "fields", {})).decode()


class TextFormatter(logging.Formatter):
    """Time, level, message, and fields as name=value; what might break a line is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging`."""
        fields: dict[str, Any] = getattr(record, "fields", {})
        shown = [f"{name}={_shown(value)}" for name, value in fields.items()]
        message = record.getMessage()
        line = " ".join(
            [f"{_time(record)}Z", record.levelname, *([message] if message else []), *shown]
        )
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure(*, json_lines: bool) -> None:
    """Write this server's log and the libraries' warnings to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if json_lines else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("gpt2ja_serve", "gpt2ja_onnx"):
        logging.getLogger(name).setLevel(logging.INFO)
    # It warns of every malformed request, whatever a stranger sends.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else _encode(value).decode()
    plain = text.isprintable() and not any(character in text for character in ' "=')
    return text if plain and text else _encode(text).decode()
