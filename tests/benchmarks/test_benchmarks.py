"""The harness: its data, its rounds, its tables and its judgement. No peer is needed."""

import json
import re
import sys
from pathlib import Path

import polars as pl
import pytest

import benchmarks.__main__ as bench
from benchmarks import agreement, envs, measure, tables
from benchmarks.cases import CASES, TARGETS, Case, Target
from benchmarks.generate import ARMS, DAYS, START, Size, generate
from benchmarks.measure import Measured, RunError
from benchmarks.repeat import EVERY, repeat
from benchmarks.tables import Row

ROOT = Path(bench.__file__).parents[1]
SMALL = Size(users=300, events=6_000)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    generate(SMALL, folder)
    return folder


def events(folder):
    return pl.read_parquet(folder / "events" / "*.parquet")


def says(seconds, **more):
    """A program that prints a measurement of so many seconds."""
    printed = {"seconds": seconds, "cpu_seconds": seconds, "peak_mb": 10.0, "estimates": {}}
    return [sys.executable, "-c", f"print({json.dumps(json.dumps(printed | more))})"]


def rounds_of(*seconds, **more):
    return Measured(rounds={i: {"seconds": value, **more} for i, value in enumerate(seconds)})


def test_the_same_seed_gives_the_same_rows(data, tmp_path):
    generate(SMALL, tmp_path)
    assert events(tmp_path).equals(events(data))
    exposures = pl.read_parquet(data / "exposures.parquet")
    assert pl.read_parquet(tmp_path / "exposures.parquet").equals(exposures)


def test_the_data_are_what_the_scenario_needs(data):
    rows, exposures = events(data), pl.read_parquet(data / "exposures.parquet")
    assert (rows.height, exposures.height) == (SMALL.events, SMALL.users)
    assert rows["event_id"].n_unique() == SMALL.events
    assert exposures["user_id"].n_unique() == SMALL.users
    assert set(exposures["variant"]) == set(ARMS)
    assert exposures["ts"].min() >= START
    assert rows["value"].is_not_null().equals(rows["event"] == "purchase")
    assert len(list((data / "events").iterdir())) == DAYS


def test_repeated_events_are_those_that_were_there(data, tmp_path):
    repeat(data, tmp_path)
    twice = events(tmp_path)
    assert twice.height - SMALL.events == pytest.approx(SMALL.events / EVERY, abs=DAYS)
    assert twice.unique().sort("event_id").equals(events(data).sort("event_id"))


def test_programs_take_turns(tmp_path):
    log = tmp_path / "log"
    measurement = json.dumps({"seconds": 1.0})
    commands = {
        name: ["sh", "-c", f"echo {name} >> {log}; echo '{measurement}'"] for name in ("a", "b")
    }
    found = measure.interleave(commands, {"a": 3, "b": 2}, tmp_path)
    assert log.read_text().split() == ["a", "b", "a", "b", "a"]
    assert [len(found[name].rounds) for name in ("a", "b")] == [3, 2]
    assert found["a"].rounds[0]["process_seconds"] > 0


def test_a_program_that_fails_says_why_and_is_not_tried_again(tmp_path):
    log = tmp_path / "log"
    command = ["sh", "-c", f"echo x >> {log}; echo trouble >&2; exit 3"]
    found = measure.interleave({"a": command}, {"a": 2}, tmp_path)["a"]
    assert found.failure == "exit 3: trouble"
    assert log.read_text().split() == ["x"]
    with pytest.raises(RunError, match="trouble"):
        found.median("seconds")


def test_a_program_without_a_measurement_is_a_failure(tmp_path):
    with pytest.raises(RunError, match="no measurement"):
        measure.run_once(["echo", "hello"], tmp_path)
    with pytest.raises(RunError, match="no measurement"):
        measure.run_once(["true"], tmp_path)
    with pytest.raises(RunError, match="No such file"):
        measure.run_once([str(tmp_path / "missing")], tmp_path)


def test_a_ratio_is_the_median_of_the_ratios_of_rounds():
    # The ratio of the medians would be 10 / 4.
    ours, theirs = rounds_of(2.0, 10.0, 30.0), rounds_of(4.0, 2.0, 10.0)
    assert measure.ratio(ours, theirs, "seconds") == 3.0
    assert measure.ratio(ours, rounds_of(4.0), "seconds") == 0.5
    with pytest.raises(RunError, match="not there"):
        measure.ratio(ours, Measured(failure="not there"), "seconds")


def test_the_bare_scan_measures_itself(data):
    command = [sys.executable, "-m", "benchmarks.bare_scan", str(data), "plain"]
    found = measure.run_once(command, ROOT)
    assert 0 < found["seconds"] < found["process_seconds"]
    assert found["cpu_seconds"] > 0
    assert 20 < found["peak_mb"] < 1_000
    assert found["estimates"] == {}


def test_numbers_have_three_digits_and_a_unit():
    shown = [(0.349, "x"), (2.6, "x"), (41.26, "s"), (100.4, "MB"), (1234.5, "MB"), (3.0, "x")]
    assert [tables.quantity(*pair) for pair in shown] == [
        "0.35x", "2.6x", "41.3 s", "100 MB", "1,234 MB", "3x",
    ]  # fmt: skip


def test_a_missing_number_is_shown_with_its_reason():
    rows = [
        Row("scan", 2.6, 3.0, "x", met=True),
        Row("memory", 600.0, 500.0, "MB", met=False),
        Row("time", None, 1.0, "s", met=False, reason="exit 1: trouble"),
    ]
    assert tables.targets_table(rows).splitlines() == [
        "| what | measured | target | met |",
        "| --- | ---: | ---: | ---: |",
        "| scan | 2.6x | at most 3x | yes |",
        "| memory | 600 MB | at most 500 MB | **no** |",
        "| time | not measured | at most 1 s | **no** |",
        "",
        "- not measured: exit 1: trouble",
    ]


def test_the_block_of_a_page_is_replaced_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench -->\n<!-- /bench -->\nafter\n")
    for text in ("one \\1\n", "two\n"):
        tables.write_block(page, text)
        assert page.read_text() == f"before\n<!-- bench -->\n{text}<!-- /bench -->\nafter\n"
    page.write_text("nothing to replace")
    with pytest.raises(ValueError, match="no lines"):
        tables.write_block(page, "text")


@pytest.mark.parametrize(
    ("target", "measured", "met"),
    [
        (Target(what="", case="a", at_most=0.5, base="b", size="S"), 0.5, True),
        (Target(what="", case="b", at_most=1.99, base="a", size="S"), 2.0, False),
        (Target(what="", case="a", at_most=12, key="peak_mb", size="S"), 12.0, True),
        (Target(what="", case="a", at_most=0.9, size="S"), 1.0, False),
        (
            Target(what="", case="a", at_most=1, base="a", size="M", base_size="S", per=5.0),
            1.2,
            False,
        ),
        (Target(what="", case="c", at_most=9, size="S"), None, False),
    ],
)
def test_targets_are_judged(target, measured, met):
    results = {
        "S": {
            "a": rounds_of(1.0, peak_mb=12.0),
            "b": rounds_of(2.0),
            "c": Measured(failure="exit 1"),
        },
        "M": {"a": rounds_of(6.0)},
    }
    row = bench.judge(target, results)
    assert (row.measured, row.met) == (measured, met)
    assert row.reason == ("exit 1" if measured is None else "")


@pytest.fixture
def tiny(monkeypatch, tmp_path, data):
    """Two programs of fixed times instead of the real cases; returns the folder of results."""
    cases = [
        Case(name=bench.SCAN, command=tuple(says(1.0)), sizes=("S",)),
        Case(name="ours", command=tuple(says(2.0, estimates=estimates(0.0))), sizes=("S",)),
    ]
    monkeypatch.setattr(bench, "CASES", cases)
    monkeypatch.setattr(bench, "BENCH", tmp_path)
    monkeypatch.setattr(bench, "data", lambda size, repeated: data)
    monkeypatch.setattr(measure, "use_two_cores", lambda: None)
    return tmp_path


def estimates(difference, error=1.0):
    return {"bold/revenue": {"difference": difference, "std_error": error}}


@pytest.mark.parametrize(("at_most", "code"), [(2.0, 0), (1.9, 1)])
def test_a_missed_target_fails_the_run(tiny, monkeypatch, capsys, at_most, code):
    target = Target(
        what="against the scan", case="ours", base=bench.SCAN, at_most=at_most, size="S"
    )
    monkeypatch.setattr(bench, "TARGETS", [target])
    readme = tiny / "README.md"
    readme.write_text("<!-- bench -->\n<!-- /bench -->\n")
    assert bench.main(["--sizes", "S", "--rounds", "1", "--readme", str(readme)]) == code
    printed = capsys.readouterr().out
    assert f"| against the scan | 2x | at most {at_most:g}x |" in printed
    assert printed.strip() in readme.read_text()
    record = json.loads((tiny / "results.json").read_text())
    assert record["targets"][0]["met"] is (code == 0)
    assert record["rounds"]["S"]["ours"]["rounds"]["0"]["seconds"] == 2.0


@pytest.mark.parametrize(
    "command",
    [says(1.0, estimates=estimates(0.1)), ["sh", "-c", "exit 4"]],
    ids=["other", "failed"],
)
def test_a_program_that_fails_or_disagrees_fails_the_run(tiny, monkeypatch, capsys, command):
    monkeypatch.setattr(bench, "TARGETS", [])
    assert bench.main(["--sizes", "S", "--rounds", "1"]) == 0
    worse = Case(name="worse", command=tuple(command), sizes=("S",))
    monkeypatch.setattr(bench, "CASES", [*bench.CASES, worse])
    assert bench.main(["--sizes", "S", "--rounds", "1"]) == 1
    assert "- S, worse:" in capsys.readouterr().out


def test_estimates_are_compared_in_standard_errors():
    reference = {"bold/conversion": {"difference": 0.0, "std_error": 2.0}, **estimates(1.0)}
    # 4e-7 of a standard error off, and the variance of a proportion without n / (n - 1).
    alike = {"bold/conversion": {"difference": 0.0, "std_error": 2.0 * (1 - 1.5e-3)}}
    near, far = estimates(1.0 + 4e-7), estimates(1.0, error=1 + 4e-6)
    found = {"scan": {}, "first": reference, "alike": alike, "near": near, "far": far, "none": {}}
    assert agreement.disagreements(found, users=1_000).keys() == {"far"}
    assert agreement.disagreements({}, users=1_000) == {}


def test_the_one_that_differs_is_named_wherever_it_stands():
    same = estimates(1.0)
    alien = {"bold/other": same["bold/revenue"]}
    for odd in (estimates(2.0), estimates(float("nan")), estimates(1.0, error=0.0), alien):
        found = agreement.disagreements({"odd": odd, "a": same, "b": same}, users=1_000)
        assert found.keys() == {"odd"}


def test_cases_and_targets_fit_together():
    by_name = {case.name: case for case in CASES}
    assert len(by_name) == len(CASES)
    for target in TARGETS:
        assert target.size in by_name[target.case].sizes
        if target.base:
            assert (target.base_size or target.size) in by_name[target.base].sizes
    assert {case.peer for case in CASES if case.peer} == set(envs.names())


@pytest.mark.parametrize("peer", envs.names())
def test_peers_are_pinned(peer):
    lines = (envs.PEERS / peer / "requirements.txt").read_text().splitlines()
    assert len(lines) > 5
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
