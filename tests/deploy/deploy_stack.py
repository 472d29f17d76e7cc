"""What deploy/docker-compose.yaml starts, as plain processes on free ports of 127.0.0.1."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from ruamel.yaml import YAML

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
START_TIMEOUT_S = 240  # a cold start takes minutes on a busy machine


def read_yaml(path):
    return YAML(typ="safe").load(path.read_text())


def compose():
    return read_yaml(DEPLOY / "docker-compose.yaml")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_for(condition, what, timeout_s=START_TIMEOUT_S, pause_s=0.2):
    """The first true value that `condition` returns."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(pause_s)
    return value


class Stack:
    """Code location, daemon and webserver of one project; each command is the one of compose.

    Only what a container has for itself is replaced: addresses, ports and paths.
    """

    def __init__(self, project, folder):
        self.folder = folder
        folder.mkdir()
        self.ports = {"4000": str(free_port()), "3000": str(free_port())}
        self.replaced = {
            "0.0.0.0": "127.0.0.1",
            "/srv/workspace.yaml": str(DEPLOY / "workspace.yaml"),
            "python": sys.executable,
            "dagster": str(Path(sys.executable).with_name("dagster")),
            "dagster-daemon": str(Path(sys.executable).with_name("dagster-daemon")),
            **self.ports,
        }
        self.project = project
        self.environment = os.environ | {
            "CODE_HOST": "127.0.0.1",
            "CODE_PORT": self.ports["4000"],
            "DAGSTER_HOME": str(project.storage / "dagster"),
            "EXPERIMENTS_PROJECT": str(project.folder),
        }
        self.processes = {}

    @property
    def webserver_port(self):
        return int(self.ports["3000"])

    def command(self, words):
        return [self.replaced.get(word, word) for word in words]

    def start(self, service):
        with (self.folder / f"{service}.log").open("a") as log:
            self.processes[service] = subprocess.Popen(
                self.command(compose()["services"][service]["command"]),
                env=self.environment,
                cwd=self.project.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, service):
        """A service that ends by itself."""
        subprocess.run(
            self.command(compose()["services"][service]["command"]),
            env=self.environment,
            cwd=self.project.folder,
            check=True,
            capture_output=True,
        )

    def is_healthy(self, service):
        """What the container's health check says."""
        assert self.processes[service].poll() is None, self.log(service)
        kind, *words = compose()["services"][service]["healthcheck"]["test"]
        assert kind == "CMD"
        words = [word.replace(":3000/", f":{self.webserver_port}/") for word in words]
        done = subprocess.run(
            self.command(words), env=self.environment, capture_output=True, check=False
        )
        return done.returncode == 0

    def log(self, service):
        return (self.folder / f"{service}.log").read_text()

    def kill(self, service):
        """End a service and its children as a container's end does: at once."""
        process = self.processes.pop(service)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self):
        for service in list(self.processes):
            self.kill(service)

    def post(self, query, **variables):
        """Data of a GraphQL answer, asked through the guard."""
        connection = http.client.HTTPConnection("127.0.0.1", self.webserver_port, timeout=120)
        body = json.dumps({"query": query, "variables": variables})
        connection.request("POST", "/graphql", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert answer.status == 200, text
        return json.loads(text)["data"]
