"""What a browser may not do to the Dagster UI, decided before the UI sees the request.

Dagster's webserver has no login, executes mutations that come in a URL and answers to any host
name. So any web page that somebody opens could drive an instance on their loopback address: by a
link or picture with the mutation in its address, or by a name of its own that it lets resolve to
127.0.0.1. The guard refuses

- a Host that is not known (421), which ends DNS rebinding;
- an Origin other than the host that is asked (403), which ends cross-site requests and websockets;
- a URL that carries a mutation (405), whatever the method: it needs neither Origin nor script.

Requests without Origin pass: scripts and health checks send none, and they are no browser.
The guard is no login: who reaches the port can do what the UI can do.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse
from starlette.datastructures import Headers, QueryParams
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger(__name__)

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
DEFAULT_PORTS = {"http": 80, "https": 443}
HIGHEST_PORT = 65_535
AUTHORITY = re.compile(
    r"(?P<host>[a-z0-9_.-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?", re.ASCII | re.IGNORECASE
)
BAD_REQUEST, FORBIDDEN, METHOD_NOT_ALLOWED, MISDIRECTED = 400, 403, 405, 421


class RefusedError(Exception):
    """A request that must not reach the application.

    Args:
        status: HTTP status to answer with.
        reason: One sentence for whoever sent it.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class _Place(NamedTuple):
    host: str
    port: int | None


class Guard:
    """An ASGI application around another one, which never sees what is refused.

    Args:
        app: The application.
        allow_hosts: Host names it is known by, without port, besides those of loopback.

    Raises:
        ValueError: A name in `allow_hosts` is not one host name.
    """

    def __init__(self, app: ASGIApp, allow_hosts: Iterable[str] = ()) -> None:
        self.app = app
        self.hosts = LOOPBACK_NAMES | {host_name(name) for name in allow_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refused request and pass on every other."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        try:
            check_request(scope, self.hosts)
        except RefusedError as refused:
            # Neither URL nor headers: both may hold what must not stand in a log.
            logger.warning("request refused status=%d path=%s", refused.status, scope["path"])
            await _refuse(refused, scope, receive, send)
            return
        await self.app(scope, receive, send)


def host_name(name: str) -> str:
    """Return a configured host name as it is compared.

    Raises:
        ValueError: It is no host name, or has a port or a wildcard.
    """
    place = _place(f"[{name}]" if ":" in name else name)
    if place is None or place.port is not None:
        msg = f"{name!r}: must be one host name without port, such as experiments.example.com"
        raise ValueError(msg)
    return place.host


def check_request(scope: Scope, hosts: Collection[str]) -> None:
    """Let a request pass or say why not.

    Args:
        scope: ASGI scope of an HTTP request or a websocket.
        hosts: Known host names, as from `host_name`.

    Raises:
        RefusedError: It is refused.
    """
    headers = Headers(scope=scope)
    host = _checked_host(headers.getlist("host"), hosts)
    _check_origin(headers.getlist("origin"), host)
    if scope["path"].rstrip("/").endswith("/graphql"):
        for query in QueryParams(scope["query_string"]).getlist("query"):
            _check_document(query)


def _checked_host(values: list[str], hosts: Collection[str]) -> _Place:
    place = _place(values[0]) if len(values) == 1 else None
    if place is None or place.host not in hosts:
        raise RefusedError(MISDIRECTED, "This server is not known by that host name.")
    return place


def _check_origin(values: list[str], host: _Place) -> None:
    """Origin and Host must name the same place; a missing port is that of the origin's scheme."""
    if not values:
        return
    if len(values) == 1:
        scheme, _, authority = values[0].partition("://")
        default, origin = DEFAULT_PORTS.get(scheme.lower()), _place(authority)
        if default is not None and origin is not None:
            asked = (host.host, host.port or default)
            if (origin.host, origin.port or default) == asked:
                return
    raise RefusedError(FORBIDDEN, "Requests from pages of other origins are refused.")


def _check_document(query: str) -> None:
    """Refuse a GraphQL document from a URL that holds a mutation or cannot be read."""
    try:
        document = parse(query)
    except (GraphQLError, RecursionError):
        # The application may have more stack left than we had: do not let it try.
        raise RefusedError(BAD_REQUEST, "The query is not a GraphQL document.") from None
    for definition in document.definitions:
        if (
            isinstance(definition, OperationDefinitionNode)
            and definition.operation is OperationType.MUTATION
        ):
            raise RefusedError(METHOD_NOT_ALLOWED, "Mutations must be sent in the body of a POST.")


def _place(authority: str) -> _Place | None:
    """Parse `host` or `host:port`; None for anything that is more, or less."""
    match = AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port <= HIGHEST_PORT:
        return None
    # A name may end in a dot, the root of all names.
    return _Place(match["host"].lower().strip("[]").removesuffix("."), port)


async def _refuse(refused: RefusedError, scope: Scope, receive: Receive, send: Send) -> None:
    allow = {"Allow": "POST"} if refused.status == METHOD_NOT_ALLOWED else None
    response = PlainTextResponse(refused.reason, refused.status, headers=allow)
    if scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
        # Starlette sends the answer to a handshake by the extension of the ASGI specification.
        await response(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": refused.reason})
