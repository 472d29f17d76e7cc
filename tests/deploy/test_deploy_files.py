"""The files of deploy/ agree with each other, with Dagster and with the package."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from dagster._core.instance.config import dagster_instance_config
from dagster._core.workspace.load_target import WorkspaceFileTarget
from deploy_stack import DEPLOY, REPOSITORY, compose, read_yaml

from experiments_dagster import __version__
from experiments_dagster.service import webserver

SERVICES = compose()["services"]
OURS = {name: service for name, service in SERVICES.items() if name != "postgres"}
HELM = read_yaml(DEPLOY / "helm-values.yaml")
HELM_CODE = HELM["dagster-user-deployments"]["deployments"][0]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
ENVIRONMENT = {
    "POSTGRES_HOST": "postgres",
    "POSTGRES_PORT": "5432",
    "POSTGRES_USER": "dagster",
    "POSTGRES_PASSWORD": "a password",
    "POSTGRES_DB": "dagster",
    "CODE_HOST": "code",
    "CODE_PORT": "4000",
    "DAGSTER_LOGS": "/var/lib/dagster-logs",
}


def sources(service):
    """Host paths and volume names that a service mounts."""
    return [re.sub(r"\$\{[^}]*\}", "..", mount).split(":")[0] for mount in service["volumes"]]


def pins(path):
    return dict(re.findall(r"^([a-z0-9.-]+)==([^ ;]+)", path.read_text(), re.MULTILINE))


def chart_command(values):
    """Arguments with which the chart starts the webserver."""
    text = f"-h 0.0.0.0 -p {values['service']['port']} -w /dagster-workspace/workspace.yaml"
    return shlex.split(
        f"{text} --db-statement-timeout 15000 --db-pool-recycle 3600 --db-pool-max-overflow 20"
        " --path-prefix /ui --log-level info --read-only"
    )


def test_the_services_are_those_of_a_dagster_deployment():
    assert set(SERVICES) == {"postgres", "migrate", "code", "daemon", "webserver"}


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_waits_for_exists_and_says_when_it_is_healthy(name):
    for other, condition in SERVICES[name].get("depends_on", {}).items():
        if other == "migrate":
            assert condition == {"condition": "service_completed_successfully"}
            assert SERVICES[other]["restart"] == "no"
        else:
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[other]


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_mounts_and_joins_exists(name):
    declared = compose()
    for source in sources(SERVICES[name]):
        if source.startswith("."):
            # The user's own project has incoming/; this repository has none.
            assert (DEPLOY / source).exists() or source == "../incoming"
        else:
            assert source in declared["volumes"]
    assert set(SERVICES[name]["networks"]) <= set(declared["networks"])


def test_only_the_guarded_webserver_is_published_and_to_loopback_alone():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["webserver"]
    assert all(port.startswith("127.0.0.1:") for port in published["webserver"])
    assert "experiments_dagster.service.webserver" in SERVICES["webserver"]["command"]
    assert not any(service.get("network_mode") for service in SERVICES.values())


def test_the_database_and_the_code_location_are_reached_from_inside_alone():
    assert compose()["networks"]["backend"] == {"internal": True}
    assert SERVICES["postgres"]["networks"] == ["backend"]
    # Without a login each: the browser's network must not reach them.
    assert [name for name in SERVICES if "browser" in SERVICES[name]["networks"]] == ["webserver"]


@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_no_rights_they_do_not_need(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert not {"privileged", "user", "pid", "cap_add"} & set(service)
    assert not any("docker.sock" in source for source in sources(service))


def test_one_service_alone_writes_the_storage_root():
    writers = [name for name in SERVICES if "storage" in sources(SERVICES[name])]
    assert writers == ["code"]
    # Runs name the host that executes them, and a new container must have the same name.
    assert SERVICES["code"]["hostname"] == "code"


def test_images_are_pinned_and_of_this_version():
    assert {service["image"] for service in OURS.values()} == {f"experiments-dagster:{__version__}"}
    assert re.fullmatch(r"postgres:\d+\.\d+-\w+", SERVICES["postgres"]["image"])
    images = [
        HELM["dagsterWebserver"]["image"],
        HELM["dagsterDaemon"]["image"],
        *(each["image"] for each in HELM["dagster-user-deployments"]["deployments"]),
    ]
    assert {image["tag"] for image in images} == {__version__}
    for base in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE):
        assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base)


def test_no_secret_is_written_down_and_every_variable_is_explained():
    text = (DEPLOY / "docker-compose.yaml").read_text()
    example = (DEPLOY / ".env.example").read_text()
    for service in SERVICES.values():
        assert service["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
    used = set(re.findall(r"\$\{([A-Z_]+)", text))
    assert used == set(re.findall(r"^([A-Z_]+)=", example, re.MULTILINE))
    assert re.search(r"^POSTGRES_PASSWORD=$", example, re.MULTILINE)
    assert ".env" in (DEPLOY / ".gitignore").read_text().split()


@pytest.mark.parametrize("name", OURS)
def test_every_service_has_the_variables_that_its_files_read(name):
    mounted = [source for source in sources(SERVICES[name]) if source.endswith(".yaml")]
    assert "./dagster.yaml" in mounted
    for source in mounted:
        named = set(re.findall(r"\{env: (\w+)\}", (DEPLOY / source).read_text()))
        assert named <= set(SERVICES[name]["environment"])


def test_dagster_accepts_the_instance(monkeypatch):
    pytest.importorskip("dagster_postgres", reason="the extra [postgres] is not installed")
    for variable, value in ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    config, custom_class = dagster_instance_config(str(DEPLOY))
    assert custom_class is None
    assert config["telemetry"] == config["nux"] == {"enabled": False}
    assert config["run_monitoring"]["enabled"] is True


def test_the_workspace_names_the_code_location_as_everywhere_else(monkeypatch):
    for variable, value in ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    (origin,) = WorkspaceFileTarget([str(DEPLOY / "workspace.yaml")]).create_origins()
    assert (origin.host, origin.port) == ("code", 4000)
    names = {
        origin.location_name,
        tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["dg"]["project"][
            "code_location_name"
        ],
        read_yaml(REPOSITORY / "workspace.yaml")["load_from"][0]["python_module"]["location_name"],
    }
    assert len(names) == 1
    for command in (SERVICES["code"]["command"], HELM_CODE["dagsterApiGrpcArgs"]):
        assert command[command.index("--location-name") + 1] == origin.location_name


def test_the_lock_of_the_image_is_that_of_the_project_and_the_driver():
    image, project = pins(DEPLOY / "requirements.lock"), pins(REPOSITORY / "requirements.lock")
    assert {name: image[name] for name in project} == project
    assert set(image) - set(project) == {"dagster-postgres", "psycopg2-binary"}
    # dagster 1.N.M and its libraries 0.(N+16).M are released together.
    assert image["dagster-postgres"] == image["dagster"].replace("1.13.", "0.29.")


def test_the_lock_of_the_image_pins_by_hash_and_names_no_address():
    text = (DEPLOY / "requirements.lock").read_text()
    assert "://" not in text
    blocks = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) >= len(pins(DEPLOY / "requirements.lock")) > 50
    assert all("--hash=sha256:" in block for block in blocks)


def test_the_image_is_made_of_files_that_exist_and_are_let_through():
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert "*" in ignore
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        *copied, _ = [word for word in line.split() if not word.startswith("--")]
        for source in copied:
            assert (REPOSITORY / source).exists(), source
            assert f"!{source}" in ignore
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)[-1] not in {"root", "0"}
    installs = re.findall(r"pip install [^&]*", DOCKERFILE)
    assert len(installs) == 2
    assert all("--require-hashes" in install for install in installs)


@pytest.mark.parametrize("name", ["dagster-webserver", "experiments"])
def test_the_commands_of_the_image_start(name, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", str(DEPLOY / name), "--version"],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d+\.\d+\.\d+", done.stdout)


def test_the_guard_takes_the_arguments_of_the_chart(tmp_path):
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text("load_from: []\n")
    arguments = [
        str(workspace) if word.startswith("/dagster-workspace") else word
        for word in ["--behind-proxy", *chart_command(HELM["dagsterWebserver"])]
    ]
    options = webserver.main.make_context("dagster-webserver", arguments).params
    assert options["host"] == "0.0.0.0"
    assert options["port"] == 3000
    assert options["read_only"] is options["behind_proxy"] is True
    assert "--behind-proxy" in (DEPLOY / "dagster-webserver").read_text()


def test_the_probes_of_the_chart_pass_the_guard():
    values = HELM["dagsterWebserver"]
    for probe in ("readinessProbe", "startupProbe"):
        request = values[probe]["httpGet"]
        assert request["port"] == values["service"]["port"]
        assert request["httpHeaders"] == [{"name": "Host", "value": "localhost"}]
    assert values["service"]["type"] == "ClusterIP"


def test_both_deployments_execute_runs_and_reach_the_database_alike():
    instance = read_yaml(DEPLOY / "dagster.yaml")
    custom = HELM["runLauncher"]["config"]["customRunLauncher"]
    assert {key: custom[key] for key in ("module", "class")} == instance["run_launcher"]
    assert (
        HELM["postgresql"]["postgresqlScheme"]
        == instance["storage"]["postgres"]["postgres_db"]["scheme"]
    )
    queue = HELM["dagsterDaemon"]["runCoordinator"]["config"]["queuedRunCoordinator"]
    assert queue["maxConcurrentRuns"] == instance["concurrency"]["runs"]["max_concurrent_runs"]
    assert HELM["generatePostgresqlPasswordSecret"] is False
    assert "postgresqlPassword" not in HELM["postgresql"]


def test_the_chart_is_of_the_locked_dagster():
    named = re.search(r"chart, version (\S+?),", (DEPLOY / "helm-values.yaml").read_text())
    assert named[1] == pins(DEPLOY / "requirements.lock")["dagster"]


@pytest.mark.parametrize("path", sorted(DEPLOY.iterdir()), ids=lambda path: path.name)
def test_every_script_is_executable_and_no_other_file(path: Path):
    if path.is_file():
        is_script = path.read_text().startswith("#!")
        assert bool(path.stat().st_mode & 0o111) is is_script
