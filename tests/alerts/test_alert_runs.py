"""The pure decision: which alerts a finished run deserves."""

from datetime import UTC, datetime, timedelta

from experiments_dagster.alerts.runs import (
    CheckFact,
    CheckKey,
    CheckState,
    RunFacts,
    StepFailure,
    alerts_for_run,
)

T0 = datetime(2026, 1, 5, tzinfo=UTC)
KEY = CheckKey(asset="frames/user_frame", check="contract", partition="checkout_button")


def make_fact(*, passed=False, minute=0, key=KEY, **changes):
    fields = {"severity": "ERROR", "at": T0 + timedelta(minutes=minute), **changes}
    return CheckFact(key=key, passed=passed, **fields)


def make_run(*checks, run_id="r1", status="SUCCESS", **changes):
    return RunFacts(
        run_id=run_id, job="nightly", status=status, ended_at=T0, checks=checks, **changes
    )


def replay(*runs):
    """Process runs in turn; return the alerts of each."""
    states, told = {}, []
    for run in runs:
        alerts, changed = alerts_for_run(run, states)
        states.update(changed)
        told.append(alerts)
    return told


def test_clean_run_is_silent():
    assert alerts_for_run(make_run(make_fact(passed=True)), {})[0] == ()


def test_warn_is_a_warning_and_error_an_error():
    other = CheckKey(asset="a", check="c")
    alerts, _ = alerts_for_run(
        make_run(make_fact(severity="WARN"), make_fact(key=other, blocking=True)), {}
    )
    assert [alert.level for alert in alerts] == ["warning", "error"]
    assert alerts[0].experiment == "checkout_button"
    assert alerts[0].check == "frames/user_frame:contract"
    assert "not blocking" in alerts[0].text
    assert alerts[1].experiment is None


def test_a_refutation_that_only_weakens_is_not_told_until_it_blocks():
    key = CheckKey(asset="results/causal_effect", check="balance", partition="spring")
    weak = make_run(make_fact(key=key, minute=0, severity="WARN"), run_id="r0")
    blocks = make_run(make_fact(key=key, minute=1), run_id="r1")
    again = make_run(make_fact(key=key, minute=2), run_id="r2")
    assert [len(alerts) for alerts in replay(weak, blocks, again)] == [0, 1, 0]


def test_episode_is_told_once_and_ends_with_a_pass():
    told = replay(
        make_run(make_fact(minute=0), run_id="r0"),
        make_run(make_fact(minute=1), run_id="r1"),
        make_run(make_fact(minute=2, passed=True), run_id="r2"),
        make_run(make_fact(minute=3), run_id="r3"),
    )
    assert [len(alerts) for alerts in told] == [1, 0, 0, 1]
    assert told[0][0].alert_id != told[3][0].alert_id


def test_partitions_are_episodes_of_their_own():
    other = CheckKey(asset=KEY.asset, check=KEY.check, partition="search_ranking")
    told = replay(
        make_run(make_fact(minute=0), run_id="r0"),
        make_run(make_fact(minute=1), make_fact(minute=1, key=other), run_id="r1"),
    )
    assert [alert.experiment for alert in told[1]] == ["search_ranking"]


def test_processing_again_after_a_crash_gives_the_same_or_nothing():
    run = make_run(make_fact(minute=0), make_fact(minute=1, passed=True))
    first, states = alerts_for_run(run, {})
    again_before_states, _ = alerts_for_run(run, {})
    again_after_states, changed = alerts_for_run(run, states)
    assert again_before_states == first
    assert again_after_states == ()
    assert changed == {}


def test_failing_again_within_a_run_keeps_one_identity():
    run = make_run(make_fact(), make_fact(minute=1, passed=True), make_fact(minute=2))
    alerts, states = alerts_for_run(run, {})
    assert len(alerts) == 1
    assert states[KEY].failing


def test_late_evaluation_does_not_overwrite_a_newer_state():
    newer = CheckState(failing=False, run_id="r2", at=T0 + timedelta(hours=1))
    alerts, states = alerts_for_run(make_run(make_fact()), {KEY: newer})
    assert len(alerts) == 1
    assert states == {}
    newer_failing = CheckState(failing=True, run_id="r2", at=T0 + timedelta(hours=1))
    assert alerts_for_run(make_run(make_fact()), {KEY: newer_failing})[0] == ()


def blocked(step="check", **changes):
    return StepFailure(
        step=step, error_class="DagsterAssetCheckFailedError", by_blocking_check=True, **changes
    )


def test_run_failed_by_its_blocking_check_is_told_as_the_check_only():
    run = make_run(
        make_fact(blocking=True, step="check"), status="FAILURE", failed_steps=(blocked(),)
    )
    alerts, _ = alerts_for_run(run, {})
    assert [alert.check for alert in alerts] == ["frames/user_frame:contract"]


def test_run_failed_by_something_else_is_told():
    crashed = StepFailure(step="nightly_looks", error_class="ValueError")
    for steps in ((crashed,), (blocked(), crashed), (blocked(step="another"),)):
        run = make_run(make_fact(blocking=True, step="check"), status="FAILURE", failed_steps=steps)
        alerts, _ = alerts_for_run(run, {})
        assert [alert.check is None for alert in alerts] == [False, True]
        assert alerts[-1].level == "error"


def test_run_failed_without_a_step_says_why():
    run = make_run(status="FAILURE", failure="process 7 is gone", experiment="checkout_button")
    (alert,) = alerts_for_run(run, {})[0]
    assert "process 7 is gone" in alert.text
    assert alert.experiment == "checkout_button"


def test_cancelled_run_is_no_failure_but_its_checks_count():
    assert alerts_for_run(make_run(status="CANCELED"), {})[0] == ()
    assert len(alerts_for_run(make_run(make_fact(), status="CANCELED"), {})[0]) == 1


def test_arrival_day_is_no_experiment():
    day = CheckKey(asset="raw/events", check="contract", partition="2026-01-05")
    (alert,) = alerts_for_run(make_run(make_fact(key=day)), {})[0]
    assert alert.experiment is None
    assert "2026-01-05" in alert.title


def test_long_description_is_cut():
    (alert,) = alerts_for_run(make_run(make_fact(description="x" * 9000)), {})[0]
    assert len(alert.text) < 3000
