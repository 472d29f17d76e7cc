"""A private Postgres cluster on a free loopback port, and a project whose runs are kept in it."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from deploy_stack import DEPLOY, REPOSITORY, free_port
from shop_factory import shop_project


def binaries():
    """Folder of Postgres' programs, the newest where there are several; None without any."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4])
    )
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else (found[-1].parent if found else None)


def cluster_user():
    """Whom Postgres can run as: it refuses root. None where root has no such user at hand."""
    if os.getuid():
        return pwd.getpwuid(os.getuid())
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


@pytest.fixture(scope="session")
def postgres():
    """The environment by which deploy/dagster.yaml finds a cluster that runs for this session."""
    pytest.importorskip("dagster_postgres", reason="the extra [postgres] is not installed")
    folder, user = binaries(), cluster_user()
    if folder is None:
        pytest.skip("Postgres' programs are not installed (Debian: apt-get install postgresql)")
    if user is None:
        pytest.skip("Postgres refuses root, and there is no user postgres or nobody")
    # pytest's own temporary folders are closed to other users.
    root = Path(tempfile.mkdtemp(prefix="deploy-postgres-"))
    password, port = secrets.token_hex(16), free_port()
    (root / "password").write_text(password)
    for path in (root, root / "password"):
        os.chown(path, user.pw_uid, user.pw_gid)
    process = None
    identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    options = {"cwd": root, **(identity if os.getuid() == 0 else {})}
    try:
        subprocess.run(
            [
                *(folder / "initdb", "--pgdata", root / "data", "--username", "dagster"),
                *("--pwfile", root / "password", "--auth", "scram-sha-256"),
                *("--encoding", "UTF8", "--locale", "C"),
            ],
            **options,
            check=True,
            capture_output=True,
        )
        with (root / "log").open("w") as log:
            process = subprocess.Popen(
                [
                    *(folder / "postgres", "-D", root / "data", "-k", root),
                    *("-h", "127.0.0.1", "-p", str(port)),
                ],
                **options,
                stdout=log,
                stderr=log,
            )
        environment = {
            "POSTGRES_HOST": "127.0.0.1",
            "POSTGRES_PORT": str(port),
            "POSTGRES_USER": "dagster",
            "POSTGRES_PASSWORD": password,
            "POSTGRES_DB": "postgres",
        }
        wait_until_it_connects(environment, process, root / "log")
        yield environment
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)  # fast shutdown: sessions are cut off
            process.wait(timeout=60)
        shutil.rmtree(root)


def wait_until_it_connects(environment, process, log):
    import psycopg2

    deadline = time.monotonic() + 60
    while True:
        try:
            connect(environment).close()
        except psycopg2.OperationalError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        else:
            return


def connect(environment):
    import psycopg2

    return psycopg2.connect(
        host=environment["POSTGRES_HOST"],
        port=environment["POSTGRES_PORT"],
        user=environment["POSTGRES_USER"],
        password=environment["POSTGRES_PASSWORD"],
        dbname=environment["POSTGRES_DB"],
    )


@pytest.fixture
def database(postgres, monkeypatch, tmp_path):
    """A database of its own; the environment of this process and its children points to it."""
    name = f"dagster_{secrets.token_hex(4)}"
    administrator = connect(postgres)
    administrator.autocommit = True
    with administrator.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    administrator.close()
    environment = postgres | {"POSTGRES_DB": name}
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("DAGSTER_LOGS", str(tmp_path / "logs"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return environment


@pytest.fixture
def rows(database):
    """Ask the database, past Dagster."""
    connection = connect(database)
    connection.autocommit = True

    def ask(statement, *values):
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall()

    yield ask
    connection.close()


@pytest.fixture
def deployed(database, tmp_path):
    """A project whose split is wrong in one of two experiments, with deploy/dagster.yaml."""
    project = shop_project(
        tmp_path / "project",
        effects={"trial": 0.3, "skewed": 0.1},
        real_shares={"skewed": {"control": 0.6, "treatment": 0.4}},
    )
    home = project.storage / "dagster"
    home.mkdir(parents=True)
    shutil.copy(DEPLOY / "dagster.yaml", home / "dagster.yaml")
    return project
