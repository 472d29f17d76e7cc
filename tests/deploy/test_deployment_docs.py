"""docs/deployment.md: its commands run here, or their parts are checked and they say why not."""

import re
import shlex
import subprocess
import sys

import pytest
import typer.main
from deploy_stack import DEPLOY, REPOSITORY, compose

from experiments_dagster.cli import app
from experiments_dagster.service import webserver

TEXT = (REPOSITORY / "docs" / "deployment.md").read_text()
BLOCKS = re.findall(r"(<!-- not executed: [^>]*-->\n)?```sh\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [shlex.split(line) for _, block in BLOCKS for line in block.splitlines()]
UNEXECUTED = [shlex.split(line) for label, block in BLOCKS if label for line in block.splitlines()]
SERVERS = [words for words in COMMANDS if "experiments_dagster.service.webserver" in words]
MEASURES = [words for words in COMMANDS if "deploy/measure_events.py" in words]


def test_every_command_is_run_or_says_that_it_was_not():
    known = SERVERS + MEASURES + UNEXECUTED
    assert [words for words in COMMANDS if words not in known] == []
    assert SERVERS
    assert MEASURES
    assert {words[0] for words in UNEXECUTED} == {"docker", "helm"}


@pytest.mark.parametrize("words", SERVERS, ids=" ".join)
def test_the_server_commands_start_it_as_they_say(words, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(webserver.uvicorn, "run", lambda _app, **options: started.append(options))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (tmp_path / "workspace.yaml").write_text("load_from: []\n")
    webserver.main.main(words[3:], standalone_mode=False)
    (options,) = started
    assert options["port"] == 3000
    assert webserver.is_loopback(options["host"]) is ("--behind-proxy" not in words)


@pytest.mark.parametrize("words", MEASURES, ids=" ".join)
def test_the_measurement_prints_what_an_event_costs(words):
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["sqlite", "sqlite, connections held"]
    for line in lines:
        median, low, high = (float(number) for number in re.findall(r"\d+\.\d", line))
        assert 0 < low <= median <= high


@pytest.mark.parametrize("words", UNEXECUTED, ids=" ".join)
def test_the_parts_of_what_could_not_run_exist(words):
    for flag in {"--file", "--values"} & set(words):
        assert (REPOSITORY / words[words.index(flag) + 1]).exists()
    if "exec" in words:
        service, command, subcommand = words[words.index("exec") + 1 :]
        assert service in compose()["services"]
        assert (DEPLOY / command).exists()
        assert subcommand in typer.main.get_command(app).commands
    if words[0] == "helm":
        claimed = words[words.index("--version") + 1]
        assert f"version {claimed}," in (DEPLOY / "helm-values.yaml").read_text()
        assert f"release `{words[3]}`" in (DEPLOY / "helm-values.yaml").read_text()


def test_the_names_and_files_in_the_text_exist():
    for path in re.findall(r"`(deploy/[\w.-]+)`", TEXT):
        # Made by the user, and ignored by git and by the image.
        assert (REPOSITORY / path).exists() or path in {"deploy/.env", "deploy/alerts.env"}
    for variable in re.findall(r"`(EXPERIMENTS_[A-Z_]+)`", TEXT):
        assert variable in str(webserver.main.params[2].envvar) + str(compose())
