"""A damaged landed file, a duplicate and a wrong split at once: each has its outcome, no more."""

import datetime as dt
import http.server
import json
import shutil
import threading

import polars as pl
import pytest
from shop_factory import EXPERIMENT, LAST_DAY, PLATFORM, WEEKLY, shop_project, write_shop

from experiments_dagster.cli.runs import Runner
from experiments_dagster.config.project import load_project
from experiments_dagster.looks.recorded import recorded_looks
from experiments_dagster.looks.reproduce import reproduce
from experiments_dagster.looks.take import open_ledger
from experiments_dagster.storage.layout import Layout
from experiments_dagster.storage.manifest import Manifest

FIRST_LOOK = dt.date(2026, 3, 23)
WEBHOOK = """
    - {{kind: webhook, name: pager, url: "http://127.0.0.1:{port}/hook", secret_env: HOOK_SECRET}}
"""


class Receiver(http.server.BaseHTTPRequestHandler):
    """Answers 500 twice, then 200, and keeps what it was sent."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((dict(self.headers), json.loads(body)))
        self.send_response(500 if len(self.server.requests) <= 2 else 200)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def receiver():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.requests = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def looks_of(project, slug):
    manifest = Manifest(Layout(project.storage)).refresh()
    return recorded_looks(open_ledger(manifest, project.experiments[slug]))


def numbers(look):
    return [effect.model_dump() for effect in look.effects]


def test_each_fault_has_its_outcome_and_stops_nothing_else(tmp_path, receiver, monkeypatch):
    monkeypatch.setenv("HOOK_SECRET", "a-secret-for-this-test")
    platform = PLATFORM + WEBHOOK.format(port=receiver.server_port).lstrip("\n")
    project = shop_project(tmp_path, effects={"fair": 0.1, "other": 0.1}, platform=platform)
    assert Runner(project).take_looks(as_of=FIRST_LOOK, land=True) == []
    clean = {slug: looks_of(project, slug)[0] for slug in project.experiments}

    # A duplicate of an incoming file under another name.
    incoming = tmp_path / "incoming" / "shop_events"
    shutil.copy(incoming / "fair.parquet", incoming / "fair-again.parquet")
    # An experiment that was configured 50/50 and run 60/40.
    text = EXPERIMENT.format(slug="skewed", looks=WEEKLY, effect=0.1)
    (tmp_path / "configs" / "experiments" / "skewed.yaml").write_text(text)
    project = load_project(tmp_path)
    write_shop(project, "skewed", 0.1, 3000, 31, {"control": 0.6, "treatment": 0.4})
    # One bit of a landed file flipped, its time put back.
    landed = Layout(project.storage).landed("shop_events", 1)
    content = bytearray(landed.read_bytes())
    content[len(content) // 2] ^= 1
    landed.write_bytes(bytes(content))

    runner = Runner(project)
    failures = runner.take_looks(as_of=LAST_DAY, land=True)
    assert [failure.code for failure in failures] == [4]
    assert str(landed) in failures[0].message
    assert "SHA-256" in failures[0].message

    manifest = Manifest(Layout(project.storage)).refresh()
    copy = manifest.known_files("shop_events")["incoming/shop_events/fair-again.parquet"]
    assert copy.rows_in == copy.deduplicated > 0
    assert looks_of(project, "skewed")[0].verdict == "INVALID"
    assert not (Layout(project.storage).results("verdicts", "skewed")).exists()
    for slug in ("fair", "other"):
        looks = looks_of(project, slug)
        assert looks[0] == clean[slug]
        assert len(looks) == 2

    # Two alerts wait, the damaged file and the wrong split: each arrives exactly once, although
    # the receiver answered 500 twice.
    for _ in range(3):
        runner.deliver_alerts()
    delivered = [body for _, body in receiver.requests[2:]]
    about_skewed = [body for body in delivered if body.get("experiment") == "skewed"]
    assert len(about_skewed) == 1
    assert len(delivered) == 2
    assert "configuration?" in about_skewed[0]["text"]
    ids = [headers["X-Experiments-Alert-Id"] for headers, _ in receiver.requests[2:]]
    assert len(ids) == len(set(ids))


def test_a_duplicate_changes_no_number(tmp_path):
    plain = shop_project(tmp_path / "plain")
    doubled = shop_project(tmp_path / "doubled")
    folder = tmp_path / "doubled" / "incoming" / "shop_events"
    events = pl.read_parquet(folder / "trial.parquet")
    events.sample(fraction=0.3, seed=1, shuffle=True).write_parquet(folder / "again.parquet")
    for project in (plain, doubled):
        assert Runner(project).take_looks(as_of=LAST_DAY, land=True) == []
    assert numbers(looks_of(plain, "trial")[0]) == numbers(looks_of(doubled, "trial")[0])


def test_a_past_look_is_reproduced_after_late_data(tmp_path):
    project = shop_project(tmp_path)
    runner = Runner(project)
    runner.take_looks(as_of=FIRST_LOOK, land=True)
    late = pl.DataFrame(
        {
            "user_id": ["trial-s000001"] * 50,
            "occurred_at": [dt.datetime(2026, 3, 10, 12, k, tzinfo=dt.UTC) for k in range(50)],
            "event": ["order"] * 50,
            "event_id": [f"late-{k}" for k in range(50)],
            "amount": [999.0] * 50,
        }
    )
    late.write_parquet(tmp_path / "incoming" / "shop_events" / "late.parquet")
    runner.take_looks(as_of=LAST_DAY, land=True)
    manifest = Manifest(Layout(project.storage)).refresh()
    assert manifest.head == 2
    result = reproduce(project, manifest, "trial.1.1")
    assert result.differences == ()
    assert numbers(result.again) == numbers(result.seen)
    assert result.n_compared > 100


def test_a_tampered_ledger_refuses_every_look(tmp_path):
    project = shop_project(tmp_path)
    runner = Runner(project)
    runner.take_looks(as_of=FIRST_LOOK, land=True)
    recorded = next((project.storage / "ledger").rglob("000001.recorded.json"))
    recorded.write_text(recorded.read_text().replace('"cutoff": 1', '"cutoff": 2', 1))
    failures = runner.take_looks(as_of=LAST_DAY)
    assert [failure.code for failure in failures] == [4]
    assert "restore the ledger" in failures[0].message
