"""`cuped` and `cuped-ratio`: published numbers, formulas written out again, and the old faults."""

import numpy as np
import pytest
from scipy import stats
from user_level_runs import (
    CUPED,
    RATIO,
    RATIOS,
    USERS,
    arms,
    bundle,
    refused,
    run,
    write,
    write_columns,
)

EXACT = 1e-9  # the same formula in another order of operations

# trustworthy-experiments-core 0.1.0, ci/golden/run_mean and run_ratio.
PUBLISHED_MEAN = {
    "base": {
        "n_control": 5,
        "n_test": 5,
        "mean_control": 0.96,
        "mean_test": 1.22,
        "diff": 0.26,
        "p_value": 0.7906120972568262,
        "t_stat": 0.27513612634097534,
        "df": 7.527227416000445,
        "ci_low": -1.9431986595650892,
        "ci_high": 2.463198659565089,
    },
    "cuped": {
        "diff": 0.366505823627288,
        "p_value": 0.07784990141591562,
        "t_stat": 2.0336511374196418,
        "df": 7.689355818953557,
        "ci_low": -0.05202427699692441,
        "ci_high": 0.7850359242515004,
        "legacy_mean_control": 0.906747088186356,
        "legacy_mean_test": 1.273252911813644,
    },
}
PUBLISHED_MEAN_DIAGNOSTICS = {
    "theta": 1.331322795341098,
    "corr_xy": 0.9722876651983576,
    "var_ratio_adj_over_raw": 0.05465669610312613,
}
PUBLISHED_RATIO = {
    "base": {
        "diff_linearized": 0.5047619047619052,
        "p_value_linearized": 0.8317559838358681,
        "legacy_ratio_diff_approx": 0.04326530612244902,
        "legacy_rel_lift_approx": 0.11648351648351658,
    },
    "cuped": {
        "diff_linearized": 0.06481700572837287,
        "p_value_linearized": 0.8114544883624155,
        "legacy_ratio_diff_approx": 0.005555743348146246,
        "legacy_rel_lift_approx": 0.014957770552701432,
    },
}
PUBLISHED_RATIO_DIAGNOSTICS = {
    "r0_post_control": 0.37142857142857144,
    "r0_pre_control": 0.3225806451612903,
    "theta": 1.2785898628162027,
    "corr_pre_post_linearized": 0.9936258848587786,
    "zero_den_share": 0.0,
    "mean_den_control": 11.666666666666666,
}


def assert_holds(found, wanted, rel=EXACT):
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=rel, abs=1e-12), key


def users(seed=1, n=400, effect=0.5, noise=1.0):
    """x before, y after, half of the rows in each arm."""
    rng = np.random.default_rng(seed)
    is_test = rng.permutation(n) < n // 2
    x = rng.gamma(2.0, 2.0, n)
    y = x + noise * rng.standard_normal(n) + effect * is_test
    return x, y, is_test


def cuped(tmp_path, *flags, code=0, name="out", **columns):
    file = write_columns(tmp_path / f"{name}.csv", **columns)
    common = ("cuped", "--input", file, "--y", "y", "--x", "x")
    return bundle(tmp_path / name, *common, *flags, code=code)


def lin_by_hand(x, y, is_test):
    """Coefficient and HC2 error of T in Y on (1, T, X - mean, T (X - mean))."""
    x = x - x.mean(axis=0)
    t = is_test.astype(float)
    design = np.column_stack([np.ones(len(y)), t, x, t[:, None] * x])
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ y
    residual = y - design @ beta
    leverage = np.einsum("ij,jk,ik->i", design, inverse, design)
    meat = design.T @ (design * (residual**2 / (1 - leverage))[:, None])
    return beta[1], np.sqrt((inverse @ meat @ inverse)[1, 1])


def test_the_numbers_of_old_are_kept_where_they_were_right(tmp_path):
    file = write(tmp_path / "users.csv", USERS)
    found = bundle(tmp_path / "out", "cuped", "--input", file, *CUPED, "--compat", "legacy")
    for name, wanted in PUBLISHED_MEAN.items():
        assert_holds(found["estimates"][name], wanted)
    assert_holds(found["diagnostics"], PUBLISHED_MEAN_DIAGNOSTICS)
    # The adjusted mean was printed as the control's mean; now it is the raw one.
    assert found["estimates"]["cuped"]["mean_control"] == pytest.approx(0.96)
    assert "raw means" in found["estimates"]["compat_note"]["cuped.mean_control, cuped.mean_test"]
    plain = bundle(tmp_path / "plain", "cuped", "--input", file, *CUPED)["estimates"]["cuped"]
    assert not any(key.startswith("legacy") for key in plain)


def test_lin_is_the_default_and_agrees_with_its_formula(tmp_path):
    x, y, is_test = users()
    estimates = cuped(tmp_path, x=x, y=y, group=arms(is_test))["estimates"]
    assert estimates["default"] == "lin"
    beta, error = lin_by_hand(x[:, None], y, is_test)
    half = stats.norm.isf(0.025) * error
    wanted = {
        "diff": beta,
        "std_error": error,
        "p_value": 2 * stats.norm.sf(abs(beta / error)),
        "ci_low": beta - half,
        "ci_high": beta + half,
        "mean_control": y[~is_test].mean(),
    }
    assert_holds(estimates["lin"], wanted, rel=1e-8)
    welch = stats.ttest_ind(y[is_test], y[~is_test], equal_var=False)
    assert estimates["base"]["p_value"] == pytest.approx(welch.pvalue, rel=EXACT)
    # The lift by the delta method or Fieller contains the estimate and not zero alone.
    assert estimates["lin"]["rel_lift"] == pytest.approx(beta / y[~is_test].mean(), rel=1e-8)
    assert estimates["lin"]["rel_ci_low"] < estimates["lin"]["rel_lift"]


def test_rows_of_a_third_arm_enter_no_number(tmp_path):
    x, y, is_test = users()
    alone = cuped(tmp_path, x=x, y=y, group=arms(is_test))
    groups = np.concatenate([arms(is_test), np.full(300, "other")])
    far = np.linspace(0, 100, 300)
    more = cuped(tmp_path, name="more", x=np.r_[x, far], y=np.r_[y, -5 * far], group=groups)
    assert more["estimates"] == alone["estimates"]
    assert more["diagnostics"]["theta"] == alone["diagnostics"]["theta"]
    assert any("other 300" in text for text in more["warnings"])
    # With every row of the file, as it was, theta would have been another.
    pooled = np.cov(np.r_[x, far], np.r_[y, -5 * far])
    assert pooled[0, 1] / pooled[0, 0] < 0 < more["diagnostics"]["theta"]


def test_users_without_a_pre_period_stay_in_every_block(tmp_path):
    x, y, is_test = users()
    missing = np.random.default_rng(2).random(len(x)) < 0.2
    found = cuped(tmp_path, x=np.where(missing, np.nan, x), y=y, group=arms(is_test))
    for name in ("base", "lin", "cuped"):
        block = found["estimates"][name]
        assert block["n_control"] + block["n_test"] == len(x)
        assert block["mean_control"] == pytest.approx(y[~is_test].mean())
    filled = np.column_stack([np.where(missing, 0.0, x), missing])
    beta, error = lin_by_hand(filled, y, is_test)
    assert_holds(found["estimates"]["lin"], {"diff": beta, "std_error": error}, rel=1e-8)
    assert found["diagnostics"]["n_missing_x"] == missing.sum()
    assert any("no pre-period" in text for text in found["warnings"])


def test_a_pre_period_that_is_missing_in_one_arm_is_none(tmp_path):
    x, y, is_test = users()
    found = cuped(tmp_path, x=np.where(is_test, np.nan, x), y=y, group=arms(is_test))
    assert found["estimates"]["base"]["status"] == "ok"
    for name in ("lin", "cuped"):
        assert found["estimates"][name]["reason"] == "NOT_IDENTIFIED"
        assert found["estimates"][name]["diff"] is None


def test_a_missing_outcome_is_left_out_and_said(tmp_path):
    x, y, is_test = users()
    some = np.arange(len(y)) % 10 == 0
    found = cuped(tmp_path, x=x, y=np.where(some, np.nan, y), group=arms(is_test))
    kept = ~some
    wanted = stats.ttest_ind(y[is_test & kept], y[~is_test & kept], equal_var=False)
    assert found["estimates"]["base"]["p_value"] == pytest.approx(wanted.pvalue, rel=EXACT)
    assert any("left out of every block" in text for text in found["warnings"])
    biased = cuped(
        tmp_path,
        name="biased",
        x=x,
        y=np.where(is_test & (y > np.median(y)), np.nan, y),
        group=arms(is_test),
    )
    assert any("may be biased" in text for text in biased["warnings"])


def counts_of(found):
    return found["diagnostics"]["srm"]["counts"]


def test_the_sample_ratio_is_about_everybody_who_was_assigned(tmp_path):
    """Outcomes that only the test loses are no mismatch of the assignment."""
    n = 1000
    is_test = np.arange(n) % 2 == 1
    y = np.where(is_test & (np.arange(n) % 5 == 0), np.nan, np.arange(n, dtype=float))
    x = np.sin(np.arange(n))
    found = cuped(tmp_path, x=x, y=y, group=arms(is_test))
    assert counts_of(found) == {"control": 500, "test": 500}
    assert found["diagnostics"]["srm"]["verdict"] == "ok"
    assert found["estimates"]["base"]["n_test"] == 400
    assert any("the arms differ in that" in text for text in found["warnings"])
    ratio = {"num": y, "den": np.ones(n), "num_pre": x, "den_pre": np.ones(n)}
    file = write_columns(tmp_path / "ratio.csv", group=arms(is_test), **ratio)
    flags = ("--num", "num", "--den", "den", "--num-pre", "num_pre", "--den-pre", "den_pre")
    other = bundle(tmp_path / "r", "cuped-ratio", "--input", file, *flags)
    assert counts_of(other) == {"control": 500, "test": 500}
    looks = ("--y", "y", "--looks", "1000")
    file = write_columns(tmp_path / "stream.csv", group=arms(is_test), y=y)
    assert counts_of(bundle(tmp_path / "s", "sequential-mean", "--input", file, *looks)) == {
        "control": 500,
        "test": 500,
    }


def test_a_unit_with_many_rows_counts_once_in_the_sample_ratio(tmp_path):
    """An id that was guessed is a warning; 300 rows of one test unit are still one unit."""
    is_test = np.r_[np.arange(400) % 2 == 1, np.ones(300, dtype=bool)]
    user_id = np.r_[np.arange(400), np.full(300, 1)]
    x = np.sin(np.arange(700.0))
    found = cuped(tmp_path, x=x, y=x + np.cos(np.arange(700)), group=arms(is_test), user_id=user_id)
    assert counts_of(found) == {"control": 200, "test": 200}


def test_a_transform_applies_to_outcome_and_covariate(tmp_path):
    x, y, is_test = users()
    y = np.abs(y)
    y[:4] = 500.0
    columns = {"x": x, "y": y, "group": arms(is_test)}
    capped = cuped(tmp_path, "--transform", "winsor", "--winsor-q", "0.98", **columns)
    caps = np.quantile(y, 0.98), np.quantile(x, 0.98)
    winsor = capped["diagnostics"]["winsor"]
    assert (winsor["cap_y"], winsor["cap_x"]) == pytest.approx(caps)
    beta, _ = lin_by_hand(np.minimum(x, caps[1])[:, None], np.minimum(y, caps[0]), is_test)
    assert capped["estimates"]["lin"]["diff"] == pytest.approx(beta, rel=1e-8)
    logged = cuped(tmp_path, "--transform", "log1p", name="log", **columns)
    beta, _ = lin_by_hand(np.log1p(x)[:, None], np.log1p(y), is_test)
    assert logged["estimates"]["lin"]["diff"] == pytest.approx(beta, rel=1e-8)
    assert logged["diagnostics"]["estimand"] == "log_mean_difference"
    assert logged["estimates"]["lin"]["rel_lift"] is None


def test_cross_fitting_takes_theta_from_the_other_folds(tmp_path):
    x, y, is_test = users(n=2000)
    columns = {"x": x, "y": y, "group": arms(is_test)}
    found = cuped(tmp_path, "--cuped", "crossfit", **columns)["estimates"]
    assert found["default"] == "cuped_crossfit"
    block = found["cuped_crossfit"]
    # One theta less 5 folds of it: nearly the same number, and never exactly.
    assert block["diff"] == pytest.approx(found["cuped"]["diff"], abs=0.1 * block["std_error"])
    assert block["diff"] != found["cuped"]["diff"]
    assert block["rel_lift"] == pytest.approx(block["diff"] / y[~is_test].mean())


def test_the_unit_of_the_metric_decides_nothing(tmp_path):
    x, y, is_test = users()
    found = [
        cuped(tmp_path, name=f"u{k}", x=k * x, y=k * y, group=arms(is_test))["estimates"]["lin"]
        for k in (1, 100)
    ]
    assert found[1]["p_value"] == pytest.approx(found[0]["p_value"], rel=1e-8)
    assert found[1]["diff"] == pytest.approx(100 * found[0]["diff"], rel=1e-8)


def test_swapping_the_arms_changes_signs_only(tmp_path):
    file = write(tmp_path / "users.csv", USERS)
    swapped = ("--control", "test", "--test", "control")
    one = bundle(tmp_path / "a", "cuped", "--input", file, *CUPED)["estimates"]
    two = bundle(tmp_path / "b", "cuped", "--input", file, *CUPED, *swapped)["estimates"]
    for name in ("base", "lin", "cuped"):
        assert two[name]["diff"] == pytest.approx(-one[name]["diff"])
        assert two[name]["p_value"] == pytest.approx(one[name]["p_value"])


def test_weak_covariates_and_uneven_arms_are_said(tmp_path):
    rng = np.random.default_rng(3)
    is_test = np.arange(4000) % 4 == 0
    columns = {
        "x": rng.standard_normal(4000),
        "y": rng.standard_normal(4000),
        "group": arms(is_test),
    }
    found = cuped(tmp_path, **columns)
    assert any("hardly correlated" in text for text in found["warnings"])
    assert found["diagnostics"]["srm"]["verdict"] == "block"
    assert any("sample ratio" in text for text in found["warnings"])
    planned = cuped(tmp_path, "--shares", "control=0.75,test=0.25", name="planned", **columns)
    assert planned["diagnostics"]["srm"]["verdict"] == "ok"


def test_units_with_several_rows(tmp_path):
    text = (
        "user_id,group,y,x\na,control,1,1\na,control,2,1\nb,control,2,3\nc,test,3,1\nd,test,1,2\n"
    )
    file = write(tmp_path / "data.csv", text)
    common = ("cuped", "--input", file, "--y", "y", "--x", "x")
    said = refused(*common, "--unit-col", "user_id")
    assert "1 rows repeat a unit" in said
    assert "one row per randomised unit" in said
    # A column that is only named like an id is not taken on trust: it is said.
    found = bundle(tmp_path / "out", *common)
    assert any("repeat a unit" in text for text in found["warnings"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--y", "nope", "--x", "x"), "--y nope"),
        (("--y", "group", "--x", "x"), "must hold numbers"),
        (("--y", "y", "--x", "word"), "2 of 4 values are not"),
        (("--y", "y", "--x", "none"), "--x none: no row of the arms has a value"),
        (("--y", "y", "--x", "big"), "1 of 4 values are infinite"),
        (("--y", "y", "--x", "x", "--test", "B"), "no row"),
        (("--y", "y", "--x", "x", "--test", "control"), "need two arms"),
        (("--y", "y", "--x", "x", "--group-col", "arm"), "--group-col arm"),
        (("--y", "y", "--x", "x", "--alpha", "1"), "--alpha 1"),
        (("--y", "y", "--x", "x", "--transform", "sqrt"), "raw, winsor, log1p"),
        (("--y", "y", "--x", "x", "--winsor-q", "0.3"), "--winsor-q 0.3"),
        (("--y", "y", "--x", "x", "--cuped", "crossfit", "--seed", "-1"), "--seed -1: must not"),
        (("--y", "low", "--x", "x", "--transform", "log1p"), "negative values"),
        (("--y", "y", "--x", "x", "--shares", "control=1"), "--shares"),
        (("--y", "y", "--x", "x", "--shares", "control=nan,test=0.5"), "--shares 'control=nan"),
        (("--y", "y", "--x", "x", "--shares", "control=0.5,test=0.6"), "add up to 1"),
        (("--y", "y", "--x", "x", "--compat", "theirs"), "--compat"),
        (("--y", "y", "--x", "x", "--cuped", "magic"), "--cuped"),
        (("--y", "y"), "--x"),
    ],
)
def test_a_mistake_is_named(tmp_path, flags, said):
    text = (
        "group,y,x,word,big,low,none\n"
        "control,1,1,a,inf,-1,\ncontrol,2,3,b,1,2,\ntest,3,1,3,2,3,\ntest,1,2,4,3,4,\n"
    )
    file = write(tmp_path / "data.csv", text)
    assert said in refused("cuped", "--input", file, *flags)


def test_files_that_cannot_be_read_are_named(tmp_path):
    assert "no such file" in refused("cuped", "--input", tmp_path / "no.csv", *CUPED)
    odd = write(tmp_path / "data.xlsx", "x")
    assert "unknown file type" in refused("cuped", "--input", odd, *CUPED)
    broken = write(tmp_path / "data.parquet", "no parquet")
    assert "cannot be read" in refused("cuped", "--input", broken, *CUPED)
    empty = write(tmp_path / "empty.csv", "group,revenue,revenue_pre\n")
    assert "has no rows" in refused("cuped", "--input", empty, *CUPED)


def ratio_users(seed=5, n=1500, extra=0.0, lift=0.0):
    rng = np.random.default_rng(seed)
    is_test = rng.permutation(n) < n // 2
    rate, activity = rng.gamma(8.0, 0.25, n), rng.gamma(2.0, 1.0, n)
    den_pre, den = rng.poisson(activity), rng.poisson(activity + extra * is_test)
    num_pre, num = den_pre * rate, den * (rate + lift * is_test)
    return {
        "group": arms(is_test),
        "num": num,
        "den": den,
        "num_pre": num_pre,
        "den_pre": den_pre,
    }


def cuped_ratio(tmp_path, columns, *flags, name="out", code=0):
    file = write_columns(tmp_path / f"{name}.csv", **columns)
    names = ("--num", "num", "--den", "den", "--num-pre", "num_pre", "--den-pre", "den_pre")
    return bundle(tmp_path / name, "cuped-ratio", "--input", file, *names, *flags, code=code)


def test_the_ratio_numbers_of_old_keep_their_scale_or_are_labelled(tmp_path):
    file = write(tmp_path / "ratios.csv", RATIOS)
    found = bundle(tmp_path / "out", "cuped-ratio", "--input", file, *RATIO, "--compat", "legacy")
    for name, wanted in PUBLISHED_RATIO.items():
        assert_holds(found["estimates"][name], wanted)
    assert_holds(found["diagnostics"], PUBLISHED_RATIO_DIAGNOSTICS)
    base = found["estimates"]["base"]
    assert base["ratio_diff_approx"] == pytest.approx(16 / 39 - 13 / 35, rel=EXACT)
    assert base["rel_lift_approx"] == pytest.approx((16 / 39) / (13 / 35) - 1, rel=EXACT)
    assert "non-zero users" in found["estimates"]["compat_note"]["ratio_diff_approx"]


def test_the_difference_of_ratios_is_true_where_the_old_scale_was_wrong(tmp_path):
    """A treatment that raises the denominator: the old number is off by tens of percent."""
    columns = ratio_users(extra=1.5, lift=0.3)
    found = cuped_ratio(tmp_path, columns, "--compat", "legacy")
    base = found["estimates"]["base"]
    is_test = columns["group"] == "test"
    ratios, variances = [], []
    for rows in (~is_test, is_test):
        num, den = columns["num"][rows], columns["den"][rows]
        ratios.append(num.sum() / den.sum())
        linear = (num - ratios[-1] * den) / den.mean()
        variances.append(np.var(linear, ddof=1) / rows.sum())
    error = np.sqrt(sum(variances))
    assert_holds(base, {"diff": ratios[1] - ratios[0], "std_error": error})
    assert base["ci_low"] == pytest.approx(base["diff"] - 1.959963984540054 * error)
    assert base["ci_low"] < 0.3 < base["ci_high"]
    assert abs(base["legacy_ratio_diff_approx"] / base["diff"] - 1) > 0.2


def test_the_pre_period_narrows_the_interval_of_a_ratio(tmp_path):
    found = cuped_ratio(tmp_path, ratio_users(lift=0.2))["estimates"]
    assert found["cuped"]["std_error"] < found["base"]["std_error"]
    assert found["cuped"]["ci_low"] < 0.2 < found["cuped"]["ci_high"]


def test_users_without_a_ratio_history_stay_in(tmp_path):
    columns = ratio_users()
    missing = np.arange(len(columns["num"])) % 7 == 0
    for name in ("num_pre", "den_pre"):
        columns[name] = np.where(missing, np.nan, columns[name])
    found = cuped_ratio(tmp_path, columns)
    block = found["estimates"]["cuped"]
    assert block["n_control"] + block["n_test"] == len(missing)
    assert found["diagnostics"]["n_missing_pre"] == missing.sum()


def test_denominators_that_cannot_be(tmp_path):
    columns = ratio_users(n=40)
    negative = columns | {"den": columns["den"] - 5}
    file = write_columns(tmp_path / "negative.csv", **negative)
    names = ("--num", "num", "--den", "den", "--num-pre", "num_pre", "--den-pre", "den_pre")
    assert "below 0" in refused("cuped-ratio", "--input", file, *names)
    zero = write_columns(tmp_path / "zero.csv", **(columns | {"den": 0 * columns["den"]}))
    assert "ZERO_DENOMINATOR" in run("cuped-ratio", "--input", zero, *names, code=5).stderr
