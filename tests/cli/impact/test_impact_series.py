"""The file of `impact`: dates, gaps, weeks, and what is refused."""

import numpy as np
import pytest
from impact_runs import EXAMPLE, FLAGS, printed, refused, table, write_series

RNG = np.random.default_rng(8)
X = 20 + RNG.normal(size=140)
Y = 10 + 2 * X + RNG.normal(size=140)
DAY = "2025-04-11"  # day 100


def flags(file, *more, day=DAY):
    return ("impact", "--input", file, "--y", "y", "--x", "x", "--intervention", day, *more)


def with_gaps(tmp_path, *days):
    y = ["" if day in days else value for day, value in enumerate(Y)]
    return write_series(tmp_path / "gaps.csv", y=y, x=X)


@pytest.mark.parametrize(
    ("policy", "gap", "words"),
    [
        ("raise", 50, "y has no value on 2025-02-20"),
        ("ffill", 0, "y has no value on 2025-01-01"),
        ("bfill", 139, "y has no value on 2025-05-20"),
        # Nothing is carried over the intervention, in neither direction.
        ("ffill", 100, "y has no value on 2025-04-11"),
        ("bfill", 99, "y has no value on 2025-04-10"),
    ],
)
def test_a_gap_that_cannot_be_filled_is_refused_with_its_date(tmp_path, policy, gap, words):
    said = refused(*flags(with_gaps(tmp_path, gap), "--missing-policy", policy))
    assert words in said
    assert f"--missing-policy {policy}" in said


@pytest.mark.parametrize(("policy", "value"), [("ffill", Y[49]), ("bfill", Y[51]), ("zero", 0.0)])
def test_a_gap_is_filled_and_counted(tmp_path, policy, value):
    found = printed(tmp_path, *flags(with_gaps(tmp_path, 50), "--missing-policy", policy))
    whole = Y.copy()
    whole[50] = value
    same = printed(tmp_path, *flags(write_series(tmp_path / "whole.csv", y=whole, x=X)))
    assert found["cum_ci"] == same["cum_ci"]
    assert found["diagnostics"]["n_filled"] == 1
    assert any("1 missing values filled" in text for text in found["warnings"])


def test_a_missing_row_is_a_gap(tmp_path):
    file = write_series(tmp_path / "a.csv", y=Y, x=X)
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:41] + lines[42:]) + "\n")
    assert "no value on 2025-02-10" in refused(*flags(file))
    assert (
        printed(tmp_path, *flags(file, "--missing-policy", "ffill"))["diagnostics"]["n_filled"] == 2
    )


def test_rows_of_a_date_are_put_together(tmp_path):
    halves = write_series(tmp_path / "half.csv", y=Y / 2, x=X / 2)
    lines = halves.read_text().splitlines()
    halves.write_text("\n".join([*lines, *lines[:0:-1]]) + "\n")
    summed = printed(tmp_path, *flags(halves, "--aggregation", "sum"))
    single = printed(tmp_path, *flags(write_series(tmp_path / "one.csv", y=Y, x=X)))
    assert summed["cum_ci"] == pytest.approx(single["cum_ci"], rel=1e-9)
    said = refused(*flags(halves, "--margin-rate", "0.2"))
    assert "use --aggregation sum" in said


def test_weeks_are_counted_from_the_intervention(tmp_path):
    # 2025-06-30 is no first day of a week of the file; 180 days are 25 weeks and 5 days.
    weekly = ("--freq", "W", "--aggregation", "sum", "--run-placebo", "--n-placebos", "4")
    found = printed(*(tmp_path, "impact", *FLAGS, *weekly, "--pre-period-min-points", "15"))
    assert found["diagnostics"]["n_pre"] == 25
    assert found["diagnostics"]["n_post"] == 8
    assert found["diagnostics"]["first_date"] == "2025-01-06"
    assert any("9 days at the ends" in text for text in found["warnings"])
    _, rows = table(EXAMPLE)
    y = np.array([float(row["y"]) for row in rows])
    daily = y[5:236].reshape(33, 7).sum(axis=1)
    assert found["cum_effect"] == pytest.approx(12 * 56, rel=0.25)
    assert daily[25:].sum() > found["cum_effect"]
    # Windows are weeks: 15 before and 8 after fit from week 15 to 17.
    assert found["placebo"]["n_placebos"] == 3


def test_the_floor_is_30_days_or_20_weeks_unless_said(tmp_path):
    file = write_series(tmp_path / "a.csv", y=Y, x=X)
    said = refused(*flags(file, day="2025-01-29"), code=5)
    assert "28 observed points, need 30" in said
    printed(tmp_path, *flags(file, "--pre-period-min-points", "25", day="2025-01-29"))
    said = refused(*flags(file, "--freq", "W", day="2025-05-01"), code=5)
    assert "need 20" in said


def test_a_weekly_file_keeps_its_days(tmp_path):
    file = write_series(tmp_path / "w.csv", step=7, y=Y, x=X)
    assert "use --freq W" in refused(*flags(file, day="2026-12-01"))
    found = printed(tmp_path, *flags(file, "--freq", "W", day="2026-12-01"))
    assert found["diagnostics"]["first_date"] == "2025-01-01"
    assert found["diagnostics"]["n_pre"] == 100


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--method", "ridge"), "--method 'ridge': must be one of"),
        (("--freq", "M"), "--freq 'M': must be one of D, W"),
        (("--alpha", "1"), "--alpha 1: must be above 0"),
        (("--alpha", "0.00001"), "must be at least 0.001"),
        (("--margin-rate", "3"), "--margin-rate 3: must be from 0 to 1"),
        (("--incremental-cost", "-1"), "--incremental-cost -1"),
        (("--spend-basis", "all"), "--spend-basis 'all'"),
        (("--spend-col", "nothing"), "--spend-col nothing"),
        (("--run-placebo", "--n-placebos", "0"), "--n-placebos 0: must be at least 1"),
        (("--ridge-alpha", "-1"), "--ridge-alpha -1"),
        (("--block-size", "0"), "--block-size 0"),
        (("--method", "synthetic_control"), "needs at least 2 columns"),
        (("--date-col", "day"), "--date-col day"),
    ],
)
def test_a_mistake_is_named(tmp_path, more, words):
    assert words in refused(*flags(write_series(tmp_path / "a.csv", y=Y, x=X), *more))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("date,y,x\n2025-01-01,1,a\n", "--x x: holds no numbers"),
        ("date,y,x\n2025-13-01,1,2\n", "--date-col date: data row 1 has no date"),
        ("date,y,x\n2025-01-01,inf,2\n", "--y y: data row 1 is infinite"),
        ("date,y,x\n2025-01-01,1,2\n2025-01-02,1,2\n", "the file covers 2025-01-01 to 2025-01-02"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, text, words):
    file = tmp_path / "bad.csv"
    file.write_text(text)
    assert words in refused(*flags(file))


def test_outcome_as_its_own_covariate_and_a_wrong_date_are_refused():
    assert "cannot explain itself" in refused(*FLAGS_WITH_Y)
    assert "is not a date" in refused("causal-impact", *FLAGS[:-1], "30.6.2025")


FLAGS_WITH_Y = ("impact", *FLAGS[:4], "--x", "y", *FLAGS[-2:])


def test_a_donor_that_is_the_outcome_gives_no_interval(tmp_path):
    file = write_series(tmp_path / "a.csv", y=Y, x=X, twin=Y)
    arguments = [*flags(file, "--method", "synthetic_control")]
    arguments[arguments.index("x")] = "x,twin"
    assert "[ZERO_VARIANCE]" in refused(*arguments, code=5)


@pytest.mark.parametrize("method", ["causal_impact_like", "did"])
def test_one_period_after_the_intervention_is_enough(tmp_path, method):
    file = write_series(tmp_path / "a.csv", y=Y, x=X)
    found = printed(tmp_path, *flags(file, "--method", method, day="2025-05-20"))
    assert found["diagnostics"]["n_post"] == 1
    assert found["cum_ci"] == found["point_ci"]


def test_spend_as_a_covariate_is_a_warning(tmp_path):
    found = printed(
        *(tmp_path, "impact", *FLAGS[:4], "--x", "marketing_spend", *FLAGS[-2:]),
        *("--spend-col", "marketing_spend"),
    )
    assert any("the campaign moves this column" in text for text in found["warnings"])
    assert found["economics"]["profit_reason"] == "NOT_IDENTIFIED"
