"""One log line format for our code, kopf and every other library: structlog over the standard logging.

A line is a fixed message with variable fields; `log` binds the object's reference so that each line carries it.
Fields that look like secrets are blanked, whoever logs them.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal

import structlog

_SECRET_FIELD = re.compile(
    r"(?i)(token|password|passwd|secret|authorization|credential|private_?key|user_?data|api_?key|kubeconfig)"
)
_SECRET_TEXT = re.compile(
    r"(?i)(bearer\s+)[\w.~+/=-]{8,}|(://[^/\s:@]+:)[^@\s/]+(?=@)"
    r"|(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    re.DOTALL,
)
_BLANK = "[redacted]"


def configure(format: Literal["json", "console"] = "json", level: str = "INFO") -> None:  # noqa: A002 - the setting's name
    """Send all logging of the process to stderr in one format; may be called again.

    Args:
        format: ``json`` or ``console``.
        level: least severe level written, e.g. ``INFO``.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    tail: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if format == "json":
        tail += [structlog.processors.format_exc_info, redact, structlog.processors.JSONRenderer(default=str)]
    else:
        colors = sys.stderr.isatty()
        tail += [structlog.processors.format_exc_info, redact, structlog.dev.ConsoleRenderer(colors=colors)]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    foreign: list[structlog.typing.Processor] = [*shared, structlog.stdlib.ExtraAdder(allow=["k8s_ref"])]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=foreign, processors=tail))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def log(ref: Mapping[str, Any] | str, name: str = "kumulus") -> structlog.stdlib.BoundLogger:
    """A logger whose lines carry the object's reference.

    Args:
        ref: an object as the API server gives it, or a text such as ``Server demo/web``.
        name: logger name.

    Returns:
        A logger with the field ``object``.
    """
    bound: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name).bind(object=reference(ref))
    return bound


def reference(ref: Mapping[str, Any] | str) -> str:
    """``Kind namespace/name`` of an object; a text is returned as it is."""
    if isinstance(ref, str):
        return ref
    metadata = ref.get("metadata") or {}
    place = "/".join(part for part in (metadata.get("namespace"), metadata.get("name")) if part)
    return f"{ref.get('kind', 'Object')} {place}"


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Blank fields and texts that look like secrets, at any depth."""
    for key, value in event.items():
        event[key] = _redacted(key, value)
    return event


def _redacted(key: str, value: Any) -> Any:
    # A name ending in Ref, Name … refers to a secret and is safe; only leaves under a telling name are blanked.
    if isinstance(value, Mapping):
        return {inner: _redacted(str(inner), content) for inner, content in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(key, content) for content in value]
    if value is not None and not isinstance(value, bool | int | float) and _SECRET_FIELD.search(key):
        return _BLANK
    if isinstance(value, str):
        return _SECRET_TEXT.sub(lambda found: next(filter(None, found.groups()), "") + _BLANK, value)
    return value
