"""An answer's bytes."""

from __future__ import annotations

from email.utils import formatdate

from openimds.http.messages import Response, reason_phrase

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_OURS = frozenset({b"content-length", b"connection", b"date", b"transfer-encoding", b"keep-alive"})
"""Framing is the server's: a handler's own copies are dropped."""

_BODILESS = frozenset({204, 304})

_status_lines: dict[int, bytes] = {}
_dates: tuple[int, bytes] = (0, b"")


def render(answer: Response, *, method: str, keep_alive: bool, now: float) -> bytes:
    """The whole answer as one piece of bytes. `now`: seconds since the epoch.

    The answer to HEAD has the length that GET's would have, and no body: the length of `body`, or what the handler
    said itself by a Content-Length header. Raises ValueError on a header that would break out of its line.
    """
    is_head = method == "HEAD"
    length: bytes = b"%d" % len(answer.body)
    parts = [status_line(answer.status), b"Date: ", http_date(now), b"\r\n"]
    for name, value in answer.headers:
        if b"\n" in value or b"\r" in value or b"\n" in name or b"\r" in name:
            raise ValueError(f"the header {name!r} of an answer has a line break in it")
        lowered = name.lower()
        if lowered not in _OURS:
            parts += (name, b": ", value, b"\r\n")
        elif is_head and lowered == b"content-length":
            length = value
    if answer.status not in _BODILESS:
        parts += (b"Content-Length: ", length, b"\r\n")
    parts.append(b"Connection: keep-alive\r\n\r\n" if keep_alive else b"Connection: close\r\n\r\n")
    if not is_head and answer.status not in _BODILESS:
        parts.append(answer.body)
    return b"".join(parts)


def render_head(answer: Response, *, last: bytes, keep_alive: bool) -> tuple[bytes, bytes, bytes] | None:
    """The head of an answer to a GET, in three parts: what comes before the date, from behind it to the
    value of the header `last` (in lower case), which comes last, and this value. None when the answer has not just one
    such header, or a line break in any.
    """
    if answer.status in _BODILESS:
        return None
    parts, ending = [b"\r\n"], None
    for name, value in answer.headers:
        lowered = name.lower()
        if lowered == last and ending is not None:
            return None
        if lowered == last:
            ending = name, value
        elif lowered not in _OURS:
            parts += (name, b": ", value, b"\r\n")
    if ending is None:
        return None
    lines = len(parts) // 4 + 3
    connection = b"keep-alive" if keep_alive else b"close"
    parts += (b"Content-Length: %d\r\nConnection: %b\r\n" % (len(answer.body), connection), ending[0], b": ")
    head = b"".join(parts)
    breaks = b"\n" in ending[1] or b"\r" in ending[1] or head.count(b"\n") != lines or head.count(b"\r") != lines
    return None if breaks else (status_line(answer.status) + b"Date: ", head, ending[1])


def status_line(status: int) -> bytes:
    line = _status_lines.get(status)
    if line is None:
        line = _status_lines[status] = f"HTTP/1.1 {status} {reason_phrase(status)}\r\n".encode()
    return line


def http_date(now: float) -> bytes:
    """`Sat, 21 Nov 2026 23:09:00 GMT`; made once a second."""
    global _dates  # noqa: PLW0603 - a cache of one
    second = int(now)
    if _dates[0] != second:
        _dates = (second, formatdate(second, usegmt=True).encode())
    return _dates[1]


FAILED = Response(
    status=500,
    headers=((b"Content-Type", b"text/plain; charset=UTF-8"),),
    body=b"An unknown error has occurred. Please try your request again.",
)
