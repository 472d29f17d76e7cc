"""Factories for alerts and outboxes, a fake transport, a loopback receiver."""

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from experiments_dagster.alerts.alert import Alert, alert_id_for
from experiments_dagster.alerts.outbox import Outbox
from experiments_dagster.alerts.transport import TransportError, WireRequest, WireResponse

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def make_alert(name="a", **changes) -> Alert:
    fields = {
        "alert_id": alert_id_for("test", name),
        "level": "error",
        "title": f"alert {name}",
        "text": "3 rows break the rule",
        "experiment": "checkout_button",
        "check": "frames/user_frame:contract",
        "run_id": "r1",
        "created_at": NOW,
    }
    return Alert(**{**fields, **changes})


class FakeTransport:
    """Answers with the given statuses in turn, the last one for ever; None is no answer."""

    def __init__(self, *statuses: int | None, retry_after_s: float | None = None) -> None:
        self.statuses = list(statuses) or [200]
        self.retry_after_s = retry_after_s
        self.requests: list[WireRequest] = []

    def post(self, request: WireRequest) -> WireResponse:
        self.requests.append(request)
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status is None:
            raise TransportError("ConnectionRefusedError")
        return WireResponse(status=status, retry_after_s=self.retry_after_s)


class Receiver:
    """A loopback HTTP server that answers with `statuses` in turn, the last one for ever."""

    def __init__(self, statuses: Sequence[int], *, location=None, tls=None) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.accepted: list[str] = []
        self.statuses = list(statuses)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received.append((dict(self.headers.items()), body))
                left = receiver.statuses
                status = left.pop(0) if len(left) > 1 else left[0]
                if 200 <= status < 300:
                    receiver.accepted.append(self.headers["X-Experiments-Alert-Id"])
                self.send_response(status)
                if location is not None:
                    self.send_header("Location", location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *args) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *args: None
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/hook"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def outbox(tmp_path) -> Outbox:
    return Outbox(tmp_path / "outbox")


@pytest.fixture
def start_receiver() -> Iterator:
    started: list[Receiver] = []

    def start(*statuses: int, **options) -> Receiver:
        started.append(Receiver(statuses or (200,), **options))
        return started[-1]

    yield start
    for receiver in started:
        receiver.close()


@pytest.fixture
def alert_factory():
    return make_alert


@pytest.fixture
def fake_transport():
    return FakeTransport
