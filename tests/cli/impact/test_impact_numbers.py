"""Numbers of `impact`: formulas written out again, the old faults, calibration."""

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
from impact_runs import FLAGS, METHODS, printed, table, write_series
from scipy import optimize, stats

from experiments_dagster.causal.series import scaled_control
from experiments_dagster.causal.series.scaled_control import estimate_scaled_control
from experiments_dagster.cli.impact.methods import SeriesTask, estimate
from experiments_dagster.cli.impact.refutation import gate_warnings
from experiments_dagster.cli.impact.request import ImpactRequest

DAY = "2025-04-11"  # 100 days after the first


def ar1(n, phi, rng):
    noise = rng.normal(size=n + 60)
    for t in range(1, len(noise)):
        noise[t] += phi * noise[t - 1]
    return noise[60:]


def series(seed=1, n=130, phi=0.5):
    rng = np.random.default_rng(seed)
    x = 10 + np.column_stack([ar1(n, 0.5, rng) for _ in range(3)])
    return 30 + x @ [2.0, 0.5, 0.0] + ar1(n, phi, rng), x


def write(tmp_path, y, x, **more):
    columns = {f"x{k}": column for k, column in enumerate(x.T)}
    return write_series(tmp_path / "series.csv", y=y, **columns, **more)


def flags(file, x="x0,x1,x2", day=DAY):
    return ("impact", "--input", file, "--y", "y", "--x", x, "--intervention", day)


def test_the_scaled_control_is_the_change_beyond_the_scaled_change(tmp_path):
    y, x = series()
    found = printed(tmp_path, *flags(write(tmp_path, y, x)), "--method", "did")
    standard = (x - x[:100].mean(axis=0)) / x[:100].std(axis=0, ddof=1)
    control = standard.mean(axis=1)
    slope = stats.linregress(control[:100], y[:100]).slope
    change = y[100:].mean() - y[:100].mean()
    expected = change - slope * (control[100:].mean() - control[:100].mean())
    assert found["point_effect"] == pytest.approx(expected, rel=1e-9)
    assert found["cum_effect"] == pytest.approx(30 * expected, rel=1e-9)


@pytest.mark.parametrize("method", ["did", "causal_impact_like"])
def test_units_of_the_columns_do_not_matter(tmp_path, method):
    # The control of old was the first column as it is.
    y, x = series()
    one = printed(tmp_path, *flags(write(tmp_path, y, x)), "--method", method)
    other = 500 + x * [1000.0, 0.01, 3.0]
    two = printed(tmp_path, *flags(write(tmp_path, y, other)), "--method", method)
    # Equal up to the order of operations.
    assert two["cum_ci"] == pytest.approx(one["cum_ci"], rel=1e-6)
    assert two["cum_effect"] == pytest.approx(one["cum_effect"], rel=1e-6)


def test_synthetic_control_has_weights_of_its_own(tmp_path):
    rng = np.random.default_rng(3)
    x = 50 + 5 * rng.normal(size=(130, 3)).cumsum(axis=0)
    y = x @ [0.6, 0.4, 0.0] + rng.normal(size=130)
    y[100:] += 5
    file = write(tmp_path, y, x)
    found = {m: printed(tmp_path, *flags(file), "--method", m) for m in METHODS}
    totals = [found[m]["cum_effect"] for m in METHODS]
    assert len({round(total, 6) for total in totals}) == 3
    weights = found["synthetic_control"]["diagnostics"]["donor_weights"]
    assert sum(weights.values()) == pytest.approx(1)

    def loss(free):
        return float(((y - x @ [*free, 1 - sum(free)])[:100] ** 2).sum())

    bounds = {"type": "ineq", "fun": lambda free: np.r_[free, 1 - sum(free)]}
    by_hand = optimize.minimize(loss, [0.3, 0.3], constraints=bounds, method="SLSQP").x
    # Two optimisers of one convex problem.
    assert [weights["x0"], weights["x1"]] == pytest.approx(by_hand, abs=1e-3)
    gap = y - x @ [weights["x0"], weights["x1"], weights["x2"]]
    assert found["synthetic_control"]["cum_effect"] == pytest.approx(gap[100:].sum())


@pytest.mark.parametrize("method", METHODS)
def test_p_is_small_exactly_when_the_interval_excludes_zero(tmp_path, method):
    for seed in range(4):
        y, x = series(seed)
        y += 200  # so that every path has a positive total, which the relative effect needs
        y[100:] += 0.5 * seed
        found = printed(tmp_path, *flags(write(tmp_path, y, x + 200)), "--method", method)
        excludes = found["cum_ci"][0] > 0 or found["cum_ci"][1] < 0
        assert (found["p_value"] < 0.05) == excludes
        assert (found["rel_ci"][0] > 0 or found["rel_ci"][1] < 0) == excludes


def coverage(phi, n_series=200):
    rng = np.random.default_rng(11)
    hits = 0
    for k in range(n_series):
        x = ar1(130, 0.5, rng)
        y = 2 * x + ar1(130, phi, rng)
        total = estimate_scaled_control(
            y, x[:, None], 100, min_pre_points=30, n_draws=400, seed=k, alpha=0.05
        ).total
        hits += total.ci_low <= 0 <= total.ci_high
    return hits


@pytest.mark.parametrize("phi", [0.0, 0.7])
def test_the_interval_of_the_scaled_control_covers_no_effect(phi):
    # The 99.9 % band of 200 draws at .95; tecore had .903 and .837.
    low, high = stats.binom.ppf([0.0005, 0.9995], 200, 0.95)
    assert low <= coverage(phi) <= high


@pytest.mark.parametrize("phi", [0.0, 0.7])
def test_the_interval_of_the_synthetic_control_covers_no_effect(phi):
    # Donors that wander: weights taken as known would miss how their errors add up.
    request = ImpactRequest(
        path=Path("none"),
        y="y",
        x=("a", "b", "c"),
        intervention=dt.date(2025, 4, 11),
        method="synthetic_control",
    )
    rng, hits = np.random.default_rng(5), 0
    for _ in range(200):
        x = 50 + 5 * rng.normal(size=(130, 3)).cumsum(axis=0)
        y = x @ [0.6, 0.4, 0.0] + ar1(130, phi, rng)
        total = estimate(SeriesTask(request=request, y=y, x=x, names=request.x, n_pre=100)).total
        hits += total.ci_low <= 0 <= total.ci_high
    low, high = stats.binom.ppf([0.0005, 0.9995], 200, 0.95)
    assert low <= hits <= high


def test_errors_without_correlation_would_fall_outside_that_band(monkeypatch):
    grid = scaled_control._ar1_grid()
    near = np.abs(grid.carry) < 0.02
    monkeypatch.setattr(
        scaled_control,
        "_ar1_grid",
        lambda: type(grid)(**{name: getattr(grid, name)[near] for name in grid.__slots__}),
    )
    assert coverage(0.7) < stats.binom.ppf(0.0005, 200, 0.95)


def test_gates_have_their_own_thresholds():
    # The R² gate of old was called with .6.
    assert gate_warnings(r2_pre=0.3, max_abs_acf=0.5) == []
    (poor,) = gate_warnings(r2_pre=0.2, max_abs_acf=0.5)
    (correlated,) = gate_warnings(r2_pre=0.3, max_abs_acf=0.7)
    assert "r2_pre 0.2" in poor
    assert "max_abs_acf_1_to_7 0.7" in correlated


def test_placebos_of_one_sign_are_an_alarm(tmp_path):
    # The level rises faster and faster and no column knows: every placebo sees an effect.
    rng = np.random.default_rng(2)
    t = np.arange(200)
    file = write(tmp_path, 100 + 0.01 * t**2 + rng.normal(size=200), rng.normal(size=(200, 1)))
    found = printed(
        *(tmp_path, *flags(file, "x0", "2025-06-30"), "--method", "did", "--run-placebo")
    )
    assert found["placebo"]["bias_alarm"] is True
    assert found["claim"]["status"] == "REFUSED"
    assert any("bias alarm" in text for text in found["warnings"])


def test_a_clean_effect_with_its_refutations_is_supported(tmp_path):
    rng = np.random.default_rng(6)
    x = 20 + ar1(400, 0.5, rng)
    y = 10 + 2 * x + rng.normal(size=400)
    y[380:] += 4
    file = write(tmp_path, y, x[:, None])
    found = printed(tmp_path, *flags(file, "x0", "2026-01-16"), "--run-placebo")
    assert found["placebo"]["p_value"] == pytest.approx(1 / 21)
    assert found["placebo"]["bias_alarm"] is False
    assert found["claim"] == {"status": "SUPPORTED", "reasons": []}


def test_placebos_that_do_not_fit_have_a_reason(tmp_path):
    y, x = series(n=130)
    found = printed(
        *(tmp_path, *flags(write(tmp_path, y, x), day="2025-02-20"), "--method", "did"),
        "--run-placebo",
    )
    assert found["placebo"]["p_value"] is None
    assert "N_TOO_SMALL" in found["placebo"]["reason"]
    assert found["claim"]["status"] == "WEAK"


def test_an_effect_that_rests_on_one_column_is_weak(tmp_path):
    rng = np.random.default_rng(4)
    x = np.column_stack([10 + rng.normal(size=130), 10 + rng.normal(size=130)])
    x[100:, 0] += 6
    y = 5 * x[:, 0] + 0.3 * rng.normal(size=130)
    y[100:] += 2
    found = printed(tmp_path, *flags(write(tmp_path, y, x), "x0,x1"), "--run-sensitivity")
    rows = {row["left_out"]: row for row in found["sensitivity"]["leave_one_out"]}
    assert rows["x0"]["is_large_change"] is True
    assert rows["x1"]["is_large_change"] is False
    assert any("without x0" in reason for reason in found["claim"]["reasons"])


def test_flags_of_the_old_bootstrap_change_nothing(tmp_path):
    one = printed(tmp_path, "impact", *FLAGS)
    two = printed(
        *(tmp_path, "impact", *FLAGS, "--ridge-alpha", 50, "--block-size", 3, "--bootstrap", 9)
    )
    assert one == two
    more = printed(tmp_path, "impact", *FLAGS, "--bootstrap", 3000)
    assert more["diagnostics"]["n_paths"] == 3000


def test_money_follows_the_interval_of_the_effect(tmp_path):
    spend = ("--spend-col", "marketing_spend", "--incremental-cost", 100)
    money = printed(tmp_path, "impact", *FLAGS, "--margin-rate", 0.3, *spend)["economics"]
    whole = printed(
        *(tmp_path, "impact", *FLAGS, "--margin-rate", 0.3, *spend, "--spend-basis", "total")
    )
    _, rows = table(FLAGS[1])
    spent = np.array([float(row["marketing_spend"]) for row in rows])
    caused = spent[180:].sum() - 60 * spent[:180].mean()
    assert money["campaign_spend"] == pytest.approx(caused)
    assert whole["economics"]["campaign_spend"] == pytest.approx(spent[180:].sum())
    for found, cost in ((money, caused), (whole["economics"], spent[180:].sum())):
        low, high = whole["cum_ci"]
        net = [0.3 * low - cost - 100, 0.3 * high - cost - 100]
        assert found["incremental_profit_net_ci"] == pytest.approx(net)
        assert found["roi_net_ci"] == pytest.approx([value / (cost + 100) for value in net])


def test_no_costs_give_no_return(tmp_path):
    money = printed(tmp_path, "impact", *FLAGS, "--margin-rate", 0.3)["economics"]
    assert (money["roi_net"], money["roi_reason"]) == (None, "ZERO_DENOMINATOR")
