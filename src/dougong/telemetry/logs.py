"""Logs: structlog for our own lines, the standard library's routed to the same output, trace ids on both."""

from __future__ import annotations

import json as stdlib_json
import logging
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TextIO, cast

import msgspec

from dougong.errors import Invalid
from dougong.telemetry._structlog import structlog
from dougong.telemetry.context import current_trace

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

__all__ = ["also_log", "configure_logging", "get_logger"]

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
_FIRST = ("time", "level", "app", "logger", "event")
_encoder = msgspec.json.Encoder(enc_hook=str)
_also: list[Callable[[], Mapping[str, str | int]]] = []


class _NamedLogger(structlog.WriteLogger):
    """Writes lines, and knows its name as the standard library's loggers do."""

    def __init__(self, out: TextIO, name: str = "") -> None:
        super().__init__(out)
        self.name = name


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger: `log.info("order placed", order=order.id)`. Cheap, and may be made before logging is configured."""
    # The name goes to the logger factory: bound as a value, it would fix the configuration as it is at import time.
    return cast("FilteringBoundLogger", structlog.get_logger(name))


def also_log(fields: Callable[[], Mapping[str, str | int]]) -> None:
    """Put what `fields()` gives on every line, e.g. which job is running. Asked only when a line is written."""
    if fields not in _also:
        _also.append(fields)


def configure_logging(app: str, *, json: bool, level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logs of this process, the standard library's and warnings too, to `stream` (standard error).

    `json`: one object per line, for machines; else aligned lines for people, coloured on a terminal. `level` is debug,
    info, warning, error or critical; raises `Invalid` for another. Called again, it replaces what was configured.
    """
    if level not in _LEVELS:
        raise Invalid(f"log level {level!r} is unknown; use one of {', '.join(_LEVELS)}", code="bad_log_level")
    out = stream if stream is not None else sys.stderr

    def add_app(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["app"] = app
        return event

    shared: list[Processor] = [
        add_app,
        structlog.stdlib.add_logger_name,
        _add_trace,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    # Plain tracebacks: the rich ones print local variables, and with them whatever secret is in one.
    if json:
        rendering: list[Processor] = [structlog.processors.format_exc_info, _render_json]
    else:
        rendering = [
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(), timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
            )
        ]

    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *name: _NamedLogger(out, *name),
        cache_logger_on_first_use=False,  # module-level loggers follow when the process is configured again
    )

    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    logging.captureWarnings(True)


def _plain_by_default() -> None:
    """Until somebody configures logging: structlog as it comes, but with plain tracebacks. Its own default prints local
    variables, and so whatever secret is in one, and may take minutes over large ones."""
    if not structlog.is_configured():
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        structlog.configure(
            processors=[structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso"), renderer],
            logger_factory=lambda *_name: structlog.PrintLogger(sys.stderr),
        )


def _add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    trace = current_trace()
    if trace is not None:
        event["trace_id"] = trace.trace_id
        event["span_id"] = trace.span_id
    for fields in _also:
        for key, value in fields().items():
            event.setdefault(key, value)
    return event


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    ordered: MutableMapping[str, object] = {key: event.pop(key) for key in _FIRST if key in event}
    ordered.update(event)
    try:
        return _encoder.encode(ordered).decode()
    except (ValueError, TypeError):
        # Lone surrogates or odd keys. A log call never raises: an uglier line is better than none.
        return stdlib_json.dumps({str(key): value for key, value in ordered.items()}, default=ascii, skipkeys=True)


_plain_by_default()
