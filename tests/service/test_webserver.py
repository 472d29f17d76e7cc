"""F-120 and F-121 on running servers: hostile requests are refused, the UI's own work."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from urllib.parse import quote

import click
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from experiments_dagster.service import webserver

START_TIMEOUT_S = 240  # a cold start takes minutes on a busy machine

DEFINITIONS = textwrap.dedent(
    """
    import dagster as dg

    @dg.op
    def work():
        pass

    @dg.job
    def nightly():
        work()

    defs = dg.Definitions(
        jobs=[nightly],
        schedules=[dg.ScheduleDefinition(name="daily", job=nightly, cron_schedule="0 6 * * *")],
    )
    """
)
SELECTOR = (
    '{repositoryLocationName: "shop", repositoryName: "__repository__", scheduleName: "daily"}'
)
START = (
    f"mutation {{ startSchedule(scheduleSelector: {SELECTOR})"
    " { __typename ... on ScheduleStateResult { scheduleState { status } } } }"
)
STOPPED = START.replace("startSchedule(scheduleSelector", "resetSchedule(scheduleSelector")
STATE = (
    f"query {{ scheduleOrError(scheduleSelector: {SELECTOR})"
    " { __typename ... on Schedule { scheduleState { status } } } }"
)
LAUNCH = (
    'mutation { launchRun(executionParams: {mode: "default", selector: {'
    'repositoryLocationName: "shop", repositoryName: "__repository__", pipelineName: "nightly"}})'
    " { __typename } }"
)
LOGS = 'subscription { pipelineRunLogs(runId: "none") { __typename } }'
JSON = "application/json"


class Server:
    """One guarded webserver in a process of its own, on a free port of 127.0.0.1."""

    def __init__(self, folder, *options, prefix=""):
        folder.mkdir()
        (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n")
        (folder / "shop.py").write_text(DEFINITIONS)
        workspace = {
            "load_from": [{"python_file": {"relative_path": "shop.py", "location_name": "shop"}}]
        }
        (folder / "workspace.yaml").write_text(json.dumps(workspace))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.prefix = prefix
        self.log = folder / "log.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "experiments_dagster.service.webserver"),
                    *("--port", str(self.port), "-w", str(folder / "workspace.yaml"), *options),
                ],
                env=os.environ | {"DAGSTER_HOME": str(folder)},
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
            )

    def wait_until_it_answers(self):
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if self.ask("GET", "/server_info")[0] == 200:
                    return
            except OSError:
                time.sleep(0.2)
        pytest.fail(f"no answer within {START_TIMEOUT_S} s: {self.log.read_text()}")

    def ask(self, method, path, body=None, *, host=None, origin=None, content_type=JSON):
        """Status and text of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Host": host or f"127.0.0.1:{self.port}", "Content-Type": content_type}
        if origin is not None:
            headers["Origin"] = origin
        try:
            connection.request(method, self.prefix + path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def post(self, query, **options):
        return self.ask("POST", "/graphql", json.dumps({"query": query}), **options)

    def get(self, query, **options):
        return self.ask("GET", f"/graphql?query={quote(query)}", **options)

    def schedule_state(self):
        status, text = self.post(STATE)
        assert status == 200, text
        return json.loads(text)["data"]["scheduleOrError"]["scheduleState"]["status"]

    def websocket(self, *, host="127.0.0.1", origin=None):
        return connect(
            f"ws://{host}:{self.port}{self.prefix}/graphql",
            sock=socket.create_connection(("127.0.0.1", self.port), timeout=60),
            origin=origin,
            subprotocols=["graphql-ws"],
            open_timeout=60,
        )

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout=60)
        finally:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """A writable server, and a read-only one below a path that is known by a name."""
    folder = tmp_path_factory.mktemp("servers")
    started = [
        Server(folder / "writable"),
        Server(
            folder / "read_only",
            *("--read-only", "--path-prefix", "/ui", "--allow-host", "experiments.example.com"),
            prefix="/ui",
        ),
    ]
    try:
        for server in started:
            server.wait_until_it_answers()
        yield started
    finally:
        for server in started:
            server.stop()


@pytest.fixture(scope="module")
def server(servers):
    return servers[0]


@pytest.fixture(scope="module")
def read_only(servers):
    return servers[1]


def own_origin(server):
    return f"http://127.0.0.1:{server.port}"


def test_the_pages_and_queries_of_the_ui_work(server):
    status, page = server.ask("GET", "/", origin=own_origin(server))
    assert (status, 'id="root"' in page) == (200, True)
    for answer in (
        server.post("{ version }", origin=own_origin(server)),
        server.post("{ version }"),
        server.get("{ version }"),
        server.post("{ version }", host=f"localhost:{server.port}"),
    ):
        assert answer[0] == 200
        assert json.loads(answer[1])["data"]["version"].startswith("1.13.")


def test_a_mutation_by_get_changes_nothing_and_by_post_it_works(server):
    assert server.schedule_state() == "STOPPED"
    assert server.get(START)[0] == 405
    # What a form or a script of another page can send without asking first.
    assert server.ask("POST", f"/graphql?query={quote(START)}", content_type="text/plain")[0] == 405
    assert server.schedule_state() == "STOPPED"
    status, text = server.post(START, origin=own_origin(server))
    assert status == 200
    assert json.loads(text)["data"]["startSchedule"]["scheduleState"]["status"] == "RUNNING"
    assert server.post(STOPPED)[0] == 200
    assert server.schedule_state() == "STOPPED"


@pytest.mark.parametrize("query", [START, LAUNCH, "{ version }"])
def test_a_page_that_rebinds_its_name_is_misdirected(server, query):
    foreign = f"rebound.example.net:{server.port}"
    for origin in (None, f"http://{foreign}"):
        assert server.post(query, host=foreign, origin=origin)[0] == 421
        assert server.get(query, host=foreign, origin=origin)[0] == 421
    assert server.schedule_state() == "STOPPED"


@pytest.mark.parametrize("path", ["/graphql", "/report_asset_materialization/raw", "/"])
@pytest.mark.parametrize("origin", ["https://foreign.example.net", "http://localhost:8888", "null"])
def test_a_page_of_another_origin_is_forbidden(server, origin, path):
    body = json.dumps({"query": START, "asset_key": "raw"})
    for content_type in (JSON, "text/plain"):
        answer = server.ask("POST", path, body, origin=origin, content_type=content_type)
        assert answer[0] == 403
    assert server.schedule_state() == "STOPPED"


def test_a_websocket_of_the_own_origin_works(server):
    for origin in (own_origin(server), None):
        with server.websocket(origin=origin) as socket_:
            socket_.send(json.dumps({"type": "connection_init"}))
            assert json.loads(socket_.recv(timeout=60)) == {"type": "connection_ack"}
            payload = {"query": LOGS}
            socket_.send(json.dumps({"type": "start", "id": "1", "payload": payload}))
            answer = json.loads(socket_.recv(timeout=60))
            assert answer["payload"]["data"]["pipelineRunLogs"]["__typename"].endswith("Failure")


def test_a_websocket_executes_no_mutation(server):
    with server.websocket(origin=own_origin(server)) as socket_:
        socket_.send(json.dumps({"type": "start", "id": "1", "payload": {"query": START}}))
        assert json.loads(socket_.recv(timeout=60))["type"] == "error"
    assert server.schedule_state() == "STOPPED"


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1", "https://foreign.example.net", 403),
        ("127.0.0.1", "null", 403),
        ("rebound.example.net", None, 421),
        ("rebound.example.net", "http://rebound.example.net", 421),
    ],
)
def test_a_foreign_websocket_is_refused(server, host, origin, status):
    with pytest.raises(InvalidStatus) as refused, server.websocket(host=host, origin=origin):
        pass
    assert refused.value.response.status_code == status


def test_it_listens_on_loopback_alone(server):
    # A server on 0.0.0.0 would answer on every address of the machine, so on this one too.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), timeout=10)


def test_a_read_only_server_answers_queries_and_refuses_every_mutation(read_only):
    assert read_only.schedule_state() == "STOPPED"
    assert read_only.get(START)[0] == 405
    for mutation in (START, LAUNCH):
        status, text = read_only.post(mutation)
        assert status == 200
        (answer,) = json.loads(text)["data"].values()
        assert answer["__typename"] == "UnauthorizedError"
    assert read_only.ask("POST", "/report_asset_materialization/raw", "{}")[0] == 401
    assert read_only.schedule_state() == "STOPPED"


def test_an_allowed_name_is_known_below_its_path(read_only):
    name = "experiments.example.com"
    assert read_only.post("{ version }", host=name, origin=f"https://{name}")[0] == 200
    assert read_only.post("{ version }", host=f"other.{name}")[0] == 421
    assert read_only.post("{ version }", host=name, origin=f"https://other.{name}")[0] == 403


@pytest.fixture
def served(monkeypatch, tmp_path):
    """How uvicorn would have been called."""
    calls = []
    monkeypatch.setattr(
        webserver.uvicorn, "run", lambda app, **options: calls.append((app, options))
    )
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return calls


def run_command(*arguments):
    webserver.main.main([*arguments, "--empty-workspace"], standalone_mode=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "experiments.example.com"])
def test_an_address_beyond_loopback_needs_a_proxy(served, host):
    with pytest.raises(click.UsageError, match="--behind-proxy"):
        run_command("--host", host)
    assert served == []
    run_command("--host", host, "--behind-proxy")
    assert [options["host"] for _, options in served] == [host]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_none_and_the_guard_stands_outermost(served, host):
    run_command("--host", host)
    ((app, options),) = served
    assert options["host"] == host
    assert isinstance(app, webserver.Guard)


def test_allowed_hosts_come_from_flags_or_the_environment(served, monkeypatch):
    run_command("--allow-host", "a.example.com", "--allow-host", "B.example.com")
    monkeypatch.setenv("EXPERIMENTS_ALLOW_HOSTS", "a.example.com b.example.com")
    run_command()
    for app, _ in served:
        assert {"a.example.com", "b.example.com", "localhost"} <= app.hosts
    with pytest.raises(click.BadParameter, match="one host name"):
        run_command("--allow-host", "a.example.com:443")
