"""The one seam to the network: a signed body goes out, a status comes back.

`UrllibTransport` follows no redirect, uses no proxy, speaks http and https only, connects to the
very address it checked and gives up after `timeout_s` altogether. Tests put a small fake here.
"""

import contextlib
import http.client
import socket
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from experiments_dagster.alerts.addresses import check_url, resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class WireRequest:
    """One POST.

    Args:
        url: Where to; may hold a token, so it stays out of messages and of the repr.
        body: JSON bytes.
        headers: Header lines.
        timeout_s: Limit for the whole exchange, seconds.
        allow_private: Private addresses may be reached.
    """

    url: str
    body: bytes
    headers: Mapping[str, str]
    timeout_s: float
    allow_private: bool = False

    def __repr__(self) -> str:
        return f"WireRequest(bytes={len(self.body)}, timeout_s={self.timeout_s})"


@dataclass(frozen=True, slots=True, kw_only=True)
class WireResponse:
    """The receiver's answer: its status, and the seconds it asks us to wait."""

    status: int
    retry_after_s: float | None = None


class TransportError(Exception):
    """No answer came; the message is an error class, never an address or a body."""


class Transport(Protocol):
    """What a channel needs of the network."""

    def post(self, request: WireRequest) -> WireResponse:
        """Send one POST and return the answer.

        Raises:
            AddressRefusedError: The address is not allowed.
            TransportError: No answer came.
        """
        ...


class UrllibTransport:
    """POST by `urllib.request` under the rules of the module docstring."""

    def post(self, request: WireRequest) -> WireResponse:
        """Send one POST and return the answer (see `Transport.post`)."""
        check_url(request.url, allow_private=request.allow_private)
        wire = urllib.request.Request(  # noqa: S310 - the scheme was checked above
            request.url, data=request.body, headers=dict(request.headers), method="POST"
        )
        try:
            with _deadline(request.timeout_s) as watch:
                opener = _opener(allow_private=request.allow_private, watch=watch)
                with opener.open(wire, timeout=request.timeout_s) as response:
                    return WireResponse(
                        status=response.status,
                        retry_after_s=_seconds(response.headers.get("Retry-After")),
                    )
        except (OSError, http.client.HTTPException) as error:
            raise TransportError(_name(error)) from None


class _GuardedConnection(http.client.HTTPConnection):
    """Connects only to addresses that passed the rules."""

    def __init__(
        self,
        host: str,
        *,
        allow_private: bool,
        watch: Callable[[socket.socket], None],
        context: ssl.SSLContext | None = None,
        timeout: float = 10.0,
    ) -> None:
        self.default_port = 80 if context is None else 443
        super().__init__(host, timeout=timeout)
        self._seconds = timeout
        self._allow_private = allow_private
        self._watch = watch
        self._tls = context

    def connect(self) -> None:
        """Resolve, check, connect to the checked address; certificates keep the host's name."""
        raw = self._connect_checked()
        self._watch(raw)
        if self._tls is None:
            self.sock = raw
        else:
            wrapped = self._tls.wrap_socket(
                raw, server_hostname=self.host, do_handshake_on_connect=False
            )
            self._watch(wrapped)
            wrapped.do_handshake()
            self.sock = wrapped

    def _connect_checked(self) -> socket.socket:
        addresses = resolve(self.host, self.port, allow_private=self._allow_private)
        failure: OSError | None = None
        for address in addresses:
            try:
                return socket.create_connection(address, timeout=self._seconds)
            except OSError as error:
                failure = error
        raise failure or OSError("no address")


class _GuardedHandler(urllib.request.AbstractHTTPHandler):
    """Opens http and https through `_GuardedConnection`; every status is returned as it is."""

    def __init__(self, *, allow_private: bool, watch: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self._connection = partial(_GuardedConnection, allow_private=allow_private, watch=watch)

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, request, context=ssl.create_default_context())

    http_request = urllib.request.AbstractHTTPHandler.do_request_
    https_request = urllib.request.AbstractHTTPHandler.do_request_


def _opener(
    *, allow_private: bool, watch: Callable[[socket.socket], None]
) -> urllib.request.OpenerDirector:
    # Built by hand: build_opener would add proxies, redirects, file, ftp and data.
    opener = urllib.request.OpenerDirector()
    opener.add_handler(_GuardedHandler(allow_private=allow_private, watch=watch))
    return opener


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[Callable[[socket.socket], None]]:
    """Shut the watched socket when time is up: a socket timeout alone restarts with every byte."""
    watched: list[socket.socket] = []

    def shut() -> None:
        for sock in watched:
            with contextlib.suppress(OSError):
                # The plain method: the TLS one would also drop state that the reader is using.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, shut)
    timer.daemon = True
    timer.start()
    try:
        yield watched.append
    finally:
        timer.cancel()


def _seconds(header: str | None) -> float | None:
    return float(header) if header is not None and header.isdecimal() else None


def _name(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    inner = reason if isinstance(reason, BaseException) else error
    return type(inner).__name__
