"""The UI of a project on loopback: guarded, with a daemon, and both gone at the end."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import dagster as dg
import pytest

pytestmark = pytest.mark.slow

START_TIMEOUT_S = 240  # a cold start takes minutes on a busy machine
MAIN = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from experiments_dagster.service.dev import serve_project

    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    code = ["-f", str(folder / "shop.py")]
    sys.exit(serve_project(folder, code, port, {"DAGSTER_HOME": str(folder)}))
    """
)


@pytest.fixture
def home(tmp_path):
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n")
    (tmp_path / "shop.py").write_text("import dagster as dg\n\ndefs = dg.Definitions()\n")
    return tmp_path


@pytest.fixture
def start(home):
    started = []

    def go(port):
        with (home / "log.txt").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", MAIN, str(home), str(port)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield go
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def status(port, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/server_info", headers=headers)
        return connection.getresponse().status
    except ConnectionRefusedError:
        return None
    finally:
        connection.close()


def wait_for(condition, process, log):
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def children(pid):
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in tasks.read_text().split()]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_both_run_guarded_and_both_end(start, home, stop):
    port = free_port()
    process = start(port)
    wait_for(lambda: status(port) == 200, process, home / "log.txt")
    assert status(port, Origin="https://foreign.example.net") == 403
    assert status(port, Host="rebound.example.net") == 421
    with dg.DagsterInstance.from_config(str(home)) as instance:
        wait_for(instance.get_daemon_heartbeats, process, home / "log.txt")
    both = children(process.pid)
    assert len(both) == 2
    process.send_signal(stop)
    assert process.wait(timeout=90) == 0
    assert status(port) is None
    assert not any(Path(f"/proc/{child}").exists() for child in both)


def test_a_port_that_is_taken_ends_both_with_its_code(start, home):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = start(listener.getsockname()[1])
        assert process.wait(timeout=START_TIMEOUT_S) != 0
    assert "address already in use" in (home / "log.txt").read_text()
