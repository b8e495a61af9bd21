"""From which pages browsers may open a stream. Without a check any page that somebody looks at could use a server that only
their machine reaches."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def allowed(origin: str | None, host: str, others: Collection[str] = ()) -> bool:
    """Whether a request to `host` (its header) may come from a page of `origin` (its header; only browsers send one).

    The server's own page may; so may origins among `others`, as `https://example.com:8000`, and all if `*` is there.
    """
    if origin is None or "*" in others:
        return True
    own = _place(origin)
    return own is not None and (own[1:] == _address(host, own[0]) or any(own == _place(other) for other in others))


def _place(origin: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and port; None for what is none, as "null" of a file."""
    try:
        parts = urlsplit(origin)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    return None if not host else (parts.scheme, host, port or PORTS.get(parts.scheme))


def _address(host: str, scheme: str) -> tuple[str, int | None] | None:
    place = _place(f"{scheme}://{host}")
    return None if place is None else place[1:]
