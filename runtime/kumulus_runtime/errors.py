"""What can go wrong when the API server is asked, in one tree.

::

    ApiError                  status, reason, message
    ├── NotFound              404
    ├── AlreadyExists         409, reason AlreadyExists
    ├── Conflict              409, any other reason: somebody else wrote in between, read again
    ├── Invalid               400, 405, 406, 413, 415, 422: the same request will fail again
    ├── Forbidden             401, 403: the rights or the credentials are missing
    ├── Expired               410: the resourceVersion or the continue token is too old, list again
    └── Retryable             429, 5xx, no connection, time-out: repeat after ``delay`` seconds
"""

import json
from typing import Any

_DEFAULT_DELAY = 1.0


class ApiError(Exception):
    """The API server refused a request or could not be asked.

    Attributes:
        status: HTTP status; 0 where no answer arrived.
        reason: machine-readable reason of the ``Status`` object, e.g. ``Invalid``; empty if there is none.
        message: what the API server said.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(status, reason, message)
        self.status = status
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.status} {self.reason}: {self.message}"


class NotFound(ApiError):
    """The object, its kind or its namespace does not exist."""


class AlreadyExists(ApiError):
    """An object of this name exists: whoever made it owns it."""


class Conflict(ApiError):
    """Another writer was faster, or owns the field."""


class Invalid(ApiError):
    """The request is wrong: repeating it does not help."""


class Forbidden(ApiError):
    """Credentials or rights are missing, or a policy refused."""


class Expired(ApiError):
    """History that far back is gone: list again."""


class Retryable(ApiError):
    """The API server cannot answer now.

    Attributes:
        delay: seconds to wait at least, from ``Retry-After`` where it was sent.
    """

    def __init__(self, status: int, reason: str, message: str, delay: float = _DEFAULT_DELAY) -> None:
        super().__init__(status, reason, message)
        self.delay = delay


_BY_STATUS: dict[int, type[ApiError]] = {
    400: Invalid,
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    405: Invalid,
    406: Invalid,
    409: Conflict,
    410: Expired,
    413: Invalid,
    415: Invalid,
    422: Invalid,
}


def error_from_response(status: int, body: bytes, retry_after: str | None = None, asked: str = "") -> ApiError:
    """Translate an HTTP answer of 400 and above.

    Args:
        status: HTTP status.
        body: the answer, normally a ``Status`` object in JSON.
        retry_after: the header ``Retry-After``, in seconds; dates are ignored.
        asked: method and path, put into the message.

    Returns:
        The error to raise.
    """
    reason, message = _status_of(body)
    text = f"{asked}: {message}" if asked else message
    if status == 429 or status >= 500:
        return Retryable(status, reason, text, _seconds(retry_after))
    if status == 409 and reason == "AlreadyExists":
        return AlreadyExists(status, reason, text)
    return _BY_STATUS.get(status, ApiError)(status, reason, text)


def error_from_status(status: dict[str, Any], asked: str = "") -> ApiError:
    """Translate the ``Status`` object of a watch's ERROR event."""
    return error_from_response(int(status.get("code") or 500), json.dumps(status).encode(), asked=asked)


def _status_of(body: bytes) -> tuple[str, str]:
    try:
        status = json.loads(body)
    except ValueError:
        status = None
    if not isinstance(status, dict):
        return "", body[:500].decode(errors="replace").strip()
    return str(status.get("reason") or ""), str(status.get("message") or "")


def _seconds(retry_after: str | None) -> float:
    if retry_after is None or not retry_after.isascii() or not retry_after.isdigit():
        return _DEFAULT_DELAY
    return float(retry_after)
