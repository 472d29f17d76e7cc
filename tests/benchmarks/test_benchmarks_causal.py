"""The causal programs, the limit on slow peers and what is shown of them. No peer is needed."""

import json
import math
import sys
import time

import pytest

import benchmarks.__main__ as bench
from benchmarks import agreement, measure
from benchmarks.agreement import Tolerance
from benchmarks.cases import CASES, Case
from benchmarks.causal import TASKS
from benchmarks.causal_data import make_panel, make_series
from benchmarks.measure import Measured, RunError, UnfinishedError

ROOT = bench.ROOT
SLEEPER = (sys.executable, "-c", "import time; time.sleep(60)")


def says(**estimate):
    """A program that prints an estimate at once."""
    printed = {"seconds": 0.5, "cpu_seconds": 0.5, "peak_mb": 10.0}
    printed["estimates"] = {"average": estimate} if estimate else {}
    return (sys.executable, "-c", f"print({json.dumps(json.dumps(printed))})")


def test_the_data_have_the_promised_shapes():
    series, panel = make_series(), make_panel()
    assert (series.observed.shape, series.covariates.shape) == ((1_096,), (1_096, 5))
    assert (panel.outcomes.shape, panel.characteristics.shape) == ((31, 39), (3, 31, 39))
    assert (make_series().observed == series.observed).all()
    assert (make_panel().outcomes == panel.outcomes).all()


@pytest.mark.parametrize(
    ("task", "effect"), [("impact", 4.0), ("synthetic_control", -15.0), ("placebos", -15.0)]
)
def test_the_known_effects_are_found(task, effect):
    average = TASKS[task]()()["average"]
    # Three standard errors hold it but for an unlucky seed; and it is not lost in them.
    assert average["difference"] == pytest.approx(effect, abs=3 * average["std_error"])
    assert average["std_error"] < abs(effect) / 3


def test_a_causal_program_measures_itself():
    found = measure.run_once([sys.executable, "-m", "benchmarks.causal", "placebos"], ROOT)
    assert 0 < found["seconds"] < found["process_seconds"]
    assert found["estimates"] == TASKS["placebos"]()()


def test_causal_peers_run_once_beside_ours_and_with_a_limit():
    by_name = {case.name: case for case in CASES}
    peers = [case for case in CASES if case.peer and case.base in by_name and case.limit_seconds]
    assert {case.peer for case in peers} == {"tfcausalimpact", "causalpy", "pysyncon"}
    for case in peers:
        ours = by_name[case.base]
        assert ours.scenario == case.scenario
        assert set(case.sizes) == {"L"} < set(ours.sizes)
        assert case.most_rounds == 1


def test_a_program_over_its_limit_is_stopped_with_all_that_it_started(tmp_path):
    words = "(sleep 1; echo still here > mark) & wait"
    with pytest.raises(UnfinishedError, match=r"did not finish in 0\.3 s"):
        measure.run_once(["sh", "-c", words], tmp_path, seconds=0.3)
    time.sleep(1.2)
    assert not (tmp_path / "mark").exists()


def test_only_a_limit_of_its_own_excuses_a_program(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "ONE_RUN_SECONDS", 0.3)
    commands = {"limited": SLEEPER, "not limited": SLEEPER}
    rounds = dict.fromkeys(commands, 1)
    found = measure.interleave(commands, rounds, tmp_path, {"limited": 0.2})
    assert (found["limited"].failure, found["limited"].unfinished_after) == (
        "did not finish in 0.2 s",
        0.2,
    )
    assert (found["not limited"].failure, found["not limited"].unfinished_after) == (
        "did not finish in 0.3 s",
        None,
    )
    with pytest.raises(RunError, match="did not finish"):
        found["limited"].median("seconds")


@pytest.fixture
def causal_cases(monkeypatch, tmp_path):
    """Ours at once, a peer that does not finish; returns a function that runs them and more."""
    ours = says(difference=1.0, std_error=0.1)
    cases = [
        Case(name="ours", command=ours, scenario="impact", sizes=("S",), base="ours"),
        Case(
            name="slow",
            command=SLEEPER,
            scenario="impact",
            sizes=("S",),
            base="ours",
            limit_seconds=0.5,
        ),
    ]
    users = tmp_path / "done.json"
    users.write_text('{"users": 100}')
    monkeypatch.setattr(bench, "TARGETS", [])
    monkeypatch.setattr(bench, "BENCH", tmp_path)
    monkeypatch.setattr(bench, "data", lambda size, repeated: tmp_path)
    monkeypatch.setattr(measure, "use_two_cores", lambda: None)

    def run(*more):
        monkeypatch.setattr(bench, "CASES", [*cases, *more])
        return bench.main(["--sizes", "S", "--rounds", "1"])

    return run


def test_an_unfinished_peer_is_shown_and_fails_nothing(causal_cases, capsys):
    assert causal_cases() == 0
    printed = capsys.readouterr().out
    assert "| on data of their own | time | of ours |" in printed
    assert "| ours | 0.5 s | 1x |" in printed
    assert "| slow | did not finish in 0.5 s | over 1x | - | - | - | 0 |" in printed
    assert "of the bare scan" not in printed
    assert "\n- " not in printed


@pytest.mark.parametrize(("difference", "code"), [(1.04, 0), (1.06, 1)])
def test_impacts_agree_within_half_a_standard_error(causal_cases, capsys, difference, code):
    # Its own error is smaller, which is no disagreement.
    command = says(difference=difference, std_error=0.05)
    # A third that agrees with ours, so that it is the other one that differs.
    third = Case(name="third", command=says(difference=1.0, std_error=0.1), scenario="impact",
                 sizes=("S",), base="ours")  # fmt: skip
    other = Case(name="other", command=command, scenario="impact", sizes=("S",), base="ours")
    assert causal_cases(third, other) == code
    assert ("- S, other: average differs by" in capsys.readouterr().out) is bool(code)


def test_each_scenario_has_its_tolerance():
    assert agreement.tolerance_of("plain") == Tolerance(1e-6, 1e-6)
    assert agreement.TOLERANCES.keys() == {case.scenario for case in CASES if case.limit_seconds}
    found = {
        "a": {"x": {"difference": 1.0, "std_error": 1.0}},
        "b": {"x": {"difference": 1.4, "std_error": 3.0}},
    }
    allowed = [Tolerance(0.5, math.inf), Tolerance(0.1, math.inf), Tolerance(0.5, 0.1)]
    assert [len(agreement.disagreements(found, 10, each)) for each in allowed] == [0, 1, 1]


def test_a_base_that_failed_leaves_no_ratio():
    base = Measured(failure="exit 1")
    unfinished = Measured(failure="did not finish in 9 s", unfinished_after=9.0)
    assert bench.line("slow", unfinished, base)[1:3] == ("did not finish in 9 s", "-")
