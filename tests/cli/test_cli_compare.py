"""`experiments compare` as people type it, in an app of its own, and the files that are written."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer
from scipy import stats
from typer.testing import CliRunner

from experiments_dagster.cli import adhoc, design, multiplicity
from experiments_dagster.stats.methods.units.lin import compare_adjusted
from experiments_dagster.stats.records import Estimate

SHARED = Path(__file__).parents[3] / "shared" / "data"
WIDEST_LINE = 120
COOKIES = ("fixed/cookie_cats.parquet", "version", "gate_30")
NSW = ("observational/nsw_mixtape.csv", "treat", "0")
EMAILS = ("uplift/hillstrom_half.parquet", "segment", "No E-Mail")
MENS = ("--treatment", "Mens E-Mail")


def run(*arguments, code=0):
    app = typer.Typer()
    for commands in (adhoc, design, multiplicity):
        commands.register(app)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def load(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def compare(source, *arguments, code=0):
    """The document of `compare` on a data set beside the checkout, or on a file."""
    path, group, control = source
    path = path if isinstance(path, Path) else SHARED / path
    if not path.exists():
        pytest.skip(f"no data at {path}")
    files = ("--input", path, "--group-col", group, "--control", control)
    is_usage = code == 2
    result = run("compare", *files, *arguments, *(() if is_usage else ("--json",)), code=code)
    return result.stderr if is_usage else load(result.stdout)


def estimates(source, *arguments, code=0):
    return compare(source, *arguments, code=code)["estimates"]


def expected(case, key):
    path = SHARED / "fixed" / "expected.json"
    if not path.exists():
        pytest.skip(f"no reference data at {path}")
    cases = {item["case"]: item for item in json.loads(path.read_text())}
    return cases[case]["expected"][key]


def near(value):
    """At the tolerance of the reference cases, which print ten digits."""
    return pytest.approx(value, rel=1e-6)


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    """Three arms of 1,500 units with outcomes, categories, strata and missing values."""
    rng = np.random.default_rng(11)
    n = 4500
    x = rng.normal(size=n)
    device = rng.choice(["phone", "desktop", "tablet"], size=n, p=[0.6, 0.3, 0.1])
    y = np.exp(0.4 * x + 0.3 * (device == "phone") + rng.normal(size=n))
    frame = pl.DataFrame(
        {
            "arm": np.tile(["a", "b", "c"], n // 3),
            "y": y,
            "d": rng.integers(1, 5, size=n),
            "bought": (y > 1.5).astype(int),
            "x": np.where(rng.random(n) < 0.1, np.nan, x),
            "device": device,
            "stratum": rng.integers(0, 4, size=n),
        }
    )
    path = tmp_path_factory.mktemp("units") / "units.parquet"
    frame.write_parquet(path)
    return path, "arm", "a"


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Make events of stores: some number of stores, each wholly in one arm, with 10 to 30 rows."""
    folder = tmp_path_factory.mktemp("stores")

    def make(n_stores):
        rng = np.random.default_rng(n_stores)
        store = np.repeat(np.arange(n_stores), rng.integers(10, 31, size=n_stores))
        frame = pl.DataFrame(
            {
                "store": [f"s{number}" for number in store],
                "arm": np.where(store % 2 == 0, "a", "b"),
                "y": 10 + rng.normal(size=n_stores)[store] + rng.normal(size=len(store)),
                "size": rng.normal(size=n_stores)[store],
                "noise": rng.normal(size=len(store)),
            }
        )
        path = folder / f"{n_stores}.parquet"
        frame.sample(fraction=1.0, shuffle=True, seed=1).write_parquet(path)
        return path, "arm", "a"

    return make


def frame_of(source):
    return pl.read_parquet(source[0])


def two_arms(source, column="y", arm="b"):
    frame = frame_of(source)
    return tuple(frame.filter(pl.col("arm") == name)[column].to_numpy() for name in ("a", arm))


# Against numbers of others


@pytest.mark.parametrize(
    ("source", "case", "column", "flags"),
    [
        (COOKIES, "cookie_cats", "sum_gamerounds", ()),
        (NSW, "nsw_experimental", "re78", ()),
        (EMAILS, "hillstrom_half_mens", "spend", MENS),
        (EMAILS, "hillstrom_half_womens", "spend", ("--treatment", "Womens E-Mail")),
    ],
)
def test_welch_lift_and_ranks(source, case, column, flags):
    wanted, rank = expected(case, f"welch_{column}"), expected(case, f"mw_{column}")
    difference, lift = estimates(source, "--value", column, *flags)
    names = {
        "estimate": "diff",
        "std_error": "se",
        "p_value": "p",
        "degrees_of_freedom": "df",
        "ci_low": "ci_low",
        "ci_high": "ci_high",
        "control_mean": "mean_control",
        "treatment_mean": "mean_treat",
        "n_control": "n_control",
        "n_treatment": "n_treat",
    }
    for ours, theirs in names.items():
        assert difference[ours] == near(wanted[theirs])
    assert (difference["method"], difference["interval"]) == ("welch", None)
    wanted = expected(case, f"rel_lift_{column}")
    assert (lift["estimate"], lift["std_error"]) == (near(wanted["rel"]), near(wanted["se_delta"]))
    (ranks,) = estimates(source, "--value", column, "--method", "mann_whitney", *flags)
    assert ranks["estimand"] == "probability_of_superiority"
    assert ranks["p_value"] == near(rank["p"])
    pairs = ranks["n_control"] * ranks["n_treatment"]
    assert (ranks["estimate"] + 0.5) * pairs == near(rank["U_treat"])


@pytest.mark.parametrize(
    ("source", "case", "column", "flags"),
    [
        (COOKIES, "cookie_cats", "retention_1", ()),
        (COOKIES, "cookie_cats", "retention_7", ()),
        (EMAILS, "hillstrom_half_mens", "visit", MENS),
        (EMAILS, "hillstrom_half_womens", "conversion", ("--treatment", "Womens E-Mail")),
    ],
)
def test_proportions_with_newcombe_beside(source, case, column, flags):
    wanted = expected(case, f"prop_{column}")
    flags = ("--kind", "proportion", "--value", column, *flags)
    pooled, _, newcombe = estimates(source, *flags)
    assert pooled["p_value"] == near(wanted["p"])
    assert pooled["estimate"] == near(wanted["diff"])
    welch, lift, same = estimates(source, *flags, "--method", "welch")
    assert welch["std_error"] == near(expected(case, f"welch_{column}")["se"])
    assert lift["std_error"] == near(expected(case, f"rel_lift_{column}")["se_delta"])
    assert (same["ci_low"], same["ci_high"]) == (newcombe["ci_low"], newcombe["ci_high"])
    assert [newcombe["ci_low"], newcombe["ci_high"]] == near(wanted["newcombe_ci"])
    assert (newcombe["method"], newcombe["interval"]) == ("newcombe", "newcombe")
    assert newcombe["p_value"] is None


def test_fisher_and_its_interval():
    rows = estimates(
        COOKIES, "--kind", "proportion", "--value", "retention_7", "--method", "fisher"
    )
    wanted = expected("cookie_cats", "prop_retention_7")
    failures = 44700 - wanted["x_control"], 45489 - wanted["x_treat"]
    table = [[wanted["x_treat"], failures[1]], [wanted["x_control"], failures[0]]]
    odds, p = stats.fisher_exact(table)
    (fisher,) = rows
    assert fisher["p_value"] == pytest.approx(p, rel=1e-7)
    assert fisher["odds_ratio"] == pytest.approx(odds)
    assert [fisher["ci_low"], fisher["ci_high"]] == near(wanted["newcombe_ci"])
    assert fisher["interval"] == "newcombe"


@pytest.mark.parametrize(
    ("source", "case", "flags"),
    [
        (COOKIES, "cookie_cats", ("sum_gamerounds", "retention_1")),
        (EMAILS, "hillstrom_half_mens", ("spend", "visit", *MENS)),
    ],
)
def test_ratios(source, case, flags):
    top, bottom, *rest = flags
    wanted = expected(case, f"ratio_{top}_per_{bottom}")
    columns = ("--numerator", top, "--denominator", bottom)
    row = estimates(source, "--kind", "ratio", *columns, *rest)[0]
    assert row["std_error"] == near(wanted["se_delta"])
    assert row["p_value"] == near(wanted["p"])
    assert (row["control_mean"], row["treatment_mean"]) == (
        near(wanted["ratio_control"]),
        near(wanted["ratio_treat"]),
    )


@pytest.mark.parametrize(
    ("source", "case", "y", "x", "flags"),
    [
        (NSW, "nsw_experimental", "re78", "re75", ()),
        (NSW, "nsw_experimental", "re78", "re74", ()),
        (EMAILS, "hillstrom_half_mens", "spend", "history", MENS),
        (EMAILS, "hillstrom_half_womens", "visit", "history", ("--treatment", "Womens E-Mail")),
    ],
)
def test_adjustment_by_one_covariate(source, case, y, x, flags):
    wanted = expected(case, f"cuped_{y}_by_{x}")
    common = (source, "--value", y, "--covariates", x, *flags)
    lin = estimates(*common)[0]
    assert (lin["estimate"], lin["std_error"]) == (
        near(wanted["lin_coef"]),
        near(wanted["lin_se_hc2"]),
    )
    assert lin["dropped_covariates"] == []
    pooled = estimates(*common, "--method", "pooled_theta")[0]
    assert (pooled["estimate"], pooled["p_value"]) == (
        near(wanted["diff_cuped"]),
        near(wanted["p"]),
    )
    within = estimates(*common, "--method", "within_theta")[0]
    # The coefficient of the additive regression is the difference at the within-arm theta.
    assert within["estimate"] == near(wanted["ancova_coef"])


def test_trimmed_and_log_means_agree_with_scipy(units):
    control, treatment = two_arms(units)
    arms = (units, "--value", "y", "--treatment", "b")
    (trimmed,) = estimates(*arms, "--method", "trimmed")
    yuen = stats.ttest_ind(treatment, control, equal_var=False, trim=0.2)
    assert trimmed["p_value"] == pytest.approx(yuen.pvalue, rel=1e-9)
    assert (trimmed["estimand"], trimmed["trim"]) == ("trimmed_mean_difference", 0.2)
    (logs,) = estimates(*arms, "--method", "log1p")
    welch = stats.ttest_ind(np.log1p(treatment), np.log1p(control), equal_var=False)
    assert logs["p_value"] == pytest.approx(welch.pvalue, rel=1e-9)
    assert logs["ci_low"] == pytest.approx(welch.confidence_interval().low, rel=1e-9)
    assert logs["estimand"] == "log_mean_difference"


def test_text_covariates_become_dummies_and_missing_numbers_indicators(units):
    """Against the interacted regression written out, with HC2."""
    frame = frame_of(units).filter(pl.col("arm") != "c")
    treated = (frame["arm"] == "b").to_numpy().astype(float)
    x = frame["x"].to_numpy()
    columns = [np.nan_to_num(x), np.isnan(x)]
    columns += [(frame["device"] == level).to_numpy() for level in ("desktop", "tablet")]
    covariates = np.column_stack(columns).astype(float)
    covariates -= covariates.mean(axis=0)
    design_matrix = np.column_stack(
        [np.ones(len(x)), treated, covariates, covariates * treated[:, None]]
    )
    q, r = np.linalg.qr(design_matrix)
    y = frame["y"].to_numpy()
    errors = (y - q @ (q.T @ y)) ** 2 / (1 - np.square(q).sum(axis=1))
    inverse = np.linalg.inv(r)
    covariance = inverse @ (q.T * errors) @ q @ inverse.T
    flags = ("--value", "y", "--covariates", "x,device", "--treatment", "b")
    row = estimates(units, *flags)[0]
    assert row["estimate"] == pytest.approx((inverse @ (q.T @ y))[1], rel=1e-9)
    assert row["std_error"] == pytest.approx(math.sqrt(covariance[1, 1]), rel=1e-9)
    assert 0 < row["variance_reduction"] < 1
    ratio = ("--kind", "ratio", "--numerator", "y", "--denominator", "d")
    assert estimates(units, *ratio, "--covariates", "x,device")[0]["method"] == "ratio_adjusted"


def test_several_arms_are_adjusted_to_one_mean(units):
    """X̄ is that of all arms compared; with one treatment that of the two."""
    frame = frame_of(units)
    d = frame["d"].to_numpy().astype(float)[:, None]
    is_pair = (frame["arm"] != "c").to_numpy()
    arguments = (frame["y"].to_numpy()[is_pair], (frame["arm"] == "b").to_numpy()[is_pair])
    flags = (units, "--value", "y", "--covariates", "d")
    for more, centre in (((), d.mean(axis=0)), (("--treatment", "b"), None)):
        wanted = compare_adjusted(*arguments, d[is_pair], names=["d"], centre=centre)
        found = estimates(*flags, *more)[0]
        assert found["treatment"] == "b"
        assert found["estimate"] == pytest.approx(wanted.adjusted.difference.estimate, rel=1e-12)


def test_post_stratification_is_the_weighted_difference(units):
    frame = frame_of(units).filter(pl.col("arm") != "c")
    strata = frame.group_by("stratum", "arm").agg(pl.col("y").mean(), pl.len())
    wide = strata.pivot(on="arm", index="stratum", values=["y", "len"])
    weights = (wide["len_a"] + wide["len_b"]) / frame.height
    wanted = ((wide["y_b"] - wide["y_a"]) * weights).sum()
    rows = estimates(units, "--value", "y", "--strata", "stratum", "--treatment", "b")
    assert rows[0]["method"] == "post_stratified"
    assert rows[0]["estimate"] == pytest.approx(wanted, rel=1e-12)
    assert rows[0]["n_strata"] == 4


# Quantiles and clusters


def test_quantiles_of_units_and_of_events(units, stores):
    control, treatment = two_arms(units)
    flags = ("--kind", "quantile", "--value", "y", "--quantile", "0.9")
    outer, lift = estimates(units, *flags, "--treatment", "b")
    wanted = np.quantile(treatment, 0.9) - np.quantile(control, 0.9)
    assert outer["estimate"] == pytest.approx(wanted, rel=1e-12)
    assert (outer["estimand"], outer["variance_formula"]) == ("quantile_difference", "outer")
    assert lift["estimand"] == "relative_quantile_difference"
    kernel = estimates(units, *flags, "--method", "kernel", "--treatment", "b")[0]
    assert kernel["std_error"] == pytest.approx(outer["std_error"], rel=0.25)
    adjusted = estimates(units, *flags, "--covariates", "x,device", "--treatment", "b")[0]
    assert adjusted["method"] == "quantile_adjusted"
    assert adjusted["std_error"] < outer["std_error"]
    events = (stores(60), "--kind", "quantile", "--value", "y", "--quantile", "0.5")
    by_store, by_row = estimates(*events, "--cluster", "store")[0], estimates(*events)[0]
    assert by_store["estimate"] == by_row["estimate"]
    assert (by_store["n_control"], by_store["n_treatment"]) == (30, 30)
    # Rows of a store are alike: taking them for units halves the standard error.
    assert by_store["std_error"] > 2 * by_row["std_error"]


def test_covariates_of_the_units_behind_events(stores):
    source = stores(80)
    flags = ("--kind", "quantile", "--value", "y", "--quantile", "0.5", "--cluster", "store")
    adjusted = estimates(source, *flags, "--covariates", "size")[0]
    assert adjusted["n_control"] == 40
    assert "values change within a unit" in compare(source, *flags, "--covariates", "noise", code=2)


@pytest.mark.parametrize(
    ("n_stores", "method"),
    [(420, "cluster_ratio"), (80, "cluster_ols"), (30, "cluster_ols"), (12, "cluster_means")],
)
def test_clusters_by_what_their_number_allows(stores, n_stores, method):
    source = stores(n_stores)
    rows = estimates(source, "--value", "y", "--cluster", "store")
    assert rows[0]["method"] == method
    assert rows[0]["n_control"] + rows[0]["n_treatment"] == n_stores
    if method == "cluster_means":
        assert rows[0]["inference"] == "randomization"
        assert rows[1]["reason"] == "N_TOO_SMALL"
        assert rows[2]["method"] == "cluster_ols"
        return
    control, treatment = two_arms(source)
    assert rows[0]["estimate"] == pytest.approx(treatment.mean() - control.mean(), rel=1e-9)
    if method == "cluster_ratio":
        sums = frame_of(source).group_by("arm", "store").agg(pl.col("y").sum(), n=pl.len())
        variance = 0.0
        for (_,), arm in sums.group_by("arm"):
            residuals = arm["y"] - arm["y"].sum() / arm["n"].sum() * arm["n"]
            variance += residuals.var() * arm.height / arm["n"].sum() ** 2
        assert rows[0]["std_error"] == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_a_cluster_in_both_arms_was_not_randomised(units):
    for flags in (
        ("--value", "y"),
        ("--value", "y", "--method", "bootstrap"),
        ("--value", "y", "--kind", "quantile", "--quantile", "0.5"),
    ):
        rows = estimates(units, *flags, "--cluster", "stratum", code=5)
        assert {row["reason"] for row in rows} == {"NOT_IDENTIFIED"}
        assert "4 of 4 have rows in both arms" in rows[0]["detail"]


# Resampling


def test_bootstrap_names_draws_and_interval(units):
    flags = (units, "--value", "y", "--treatment", "b", "--method", "bootstrap")
    difference, lift = estimates(*flags, "--replicates", 1000, "--seed", 3)
    again = estimates(*flags, "--replicates", 1000, "--seed", 3)
    other = estimates(*flags, "--replicates", 1000, "--seed", 4)
    assert again == [difference, lift]
    assert other[0]["ci_low"] != difference["ci_low"]
    assert (difference["replicates"], difference["seed"]) == (1000, 3)
    assert difference["interval"] == "bootstrap_percentile"
    welch = estimates(units, "--value", "y", "--treatment", "b")[0]
    # A standard error of 1,000 draws itself has one of 1/√2000 = 2.2 %; four of them.
    assert difference["std_error"] == pytest.approx(welch["std_error"], rel=0.09)


def test_permutation_has_its_own_p_and_the_interval_of_welch(tmp_path, units):
    path = tmp_path / "tea.csv"
    path.write_text("arm,y\n" + "".join(f"{'ab'[i < 4]},{v}\n" for i, v in enumerate(b"76553214")))
    (row,) = estimates((path, "arm", "a"), "--value", "y", "--method", "permutation")
    assert (row["is_exact"], row["replicates"]) == (True, 70)
    assert row["inference"] == "randomization"
    welch = estimates((path, "arm", "a"), "--value", "y")[0]
    assert row["interval"] == "welch"
    assert [row["ci_low"], row["ci_high"]] == [welch["ci_low"], welch["ci_high"]]
    flags = (units, "--value", "y", "--treatment", "b", "--method", "permutation")
    (drawn,) = estimates(*flags, "--replicates", 499, "--seed", 8)
    assert (drawn["replicates"], drawn["seed"], drawn["is_exact"]) == (499, 8, False)
    assert drawn["p_value"] * 500 == pytest.approx(round(drawn["p_value"] * 500), abs=1e-9)
    (blocked,) = estimates(*flags, "--replicates", 499, "--strata", "stratum")
    assert (blocked["variance_formula"], blocked["interval"]) == ("block_effects", "normal")


def test_permutation_draws_whole_clusters(stores):
    (row,) = estimates(stores(30), "--value", "y", "--cluster", "store", "--method", "permutation")
    assert (row["n_control"], row["n_treatment"]) == (15, 15)


# Families, margins, effect sizes


@pytest.mark.parametrize(
    "flags",
    [
        ("--value", "y"),
        ("--value", "bought", "--kind", "proportion"),
        ("--value", "y", "--covariates", "x,device"),
        ("--value", "y", "--kind", "quantile", "--quantile", "0.8"),
        ("--numerator", "y", "--denominator", "d", "--kind", "ratio"),
    ],
)
def test_dunnett_stands_beside_the_plain_numbers(units, flags):
    plain, both = estimates(units, *flags), estimates(units, *flags, "--dunnett")
    names = ("p_adjusted", "simultaneous_ci_low", "simultaneous_ci_high")
    for row, adjusted in zip(plain, both, strict=True):
        assert row == {key: value for key, value in adjusted.items() if key not in names}
        if adjusted["estimand"] not in ("difference", "quantile_difference") or (
            adjusted["method"] == "newcombe"
        ):
            assert [adjusted[name] for name in names] == [None] * 3
            continue
        p, low, high = (adjusted[name] for name in names)
        assert row["p_value"] < p <= min(1.0, 2 * row["p_value"] + 1e-12)
        assert low < row["ci_low"] < row["ci_high"] < high
        assert (p < 0.05) == (low > 0 or high < 0)


def test_dunnett_of_equal_arms_has_the_tabulated_value(tmp_path):
    """Two treatments, equal sizes and variances: 2.212 in Dunnett 1964, against 1.960."""
    y = np.tile(np.random.default_rng(2).normal(size=4000), 3)
    path = tmp_path / "equal.parquet"
    pl.DataFrame({"arm": np.repeat(["a", "b", "c"], 4000), "y": y}).write_parquet(path)
    row = estimates((path, "arm", "a"), "--value", "y", "--dunnett")[0]
    half_width = (row["simultaneous_ci_high"] - row["simultaneous_ci_low"]) / 2
    # Infinite degrees of freedom in the table, 7,998 here: 2e-4.
    assert half_width / row["std_error"] == pytest.approx(2.2121, rel=1e-3)
    one = estimates((path, "arm", "a"), "--value", "y", "--dunnett", "--treatment", "b")[0]
    assert one["p_adjusted"] == pytest.approx(one["p_value"], rel=1e-9)


def test_equivalence_and_non_inferiority(units):
    base = (units, "--value", "y", "--treatment", "b", "--margin-scale", "absolute")
    welch = estimates(*base[:-2])[0]
    estimate, std_error = welch["estimate"], welch["std_error"]
    (tost,) = compare(*base, "--margin", "0.2")["margin_tests"]
    z = min(0.2 - estimate, 0.2 + estimate) / std_error
    assert tost["p_value"] == pytest.approx(stats.norm.sf(z), rel=1e-9)
    assert (tost["test"], tost["is_equivalent"]) == ("equivalence", tost["p_value"] < 0.05)
    for direction, sign in (("increase", 1), ("decrease", -1)):
        flags = ("--margin", "0.1", "--direction", direction)
        (row,) = compare(*base, *flags)["margin_tests"]
        wanted = stats.norm.sf((sign * estimate + 0.1) / std_error)
        assert row["p_value"] == pytest.approx(wanted, rel=1e-9)
        assert row["test"] == "non_inferiority"
    relative = compare(units, "--value", "y", "--margin", "0.1")["margin_tests"]
    assert [row["treatment"] for row in relative] == ["b", "c"]
    assert relative[0]["is_relative"] is True
    assert relative[0]["estimate"] == pytest.approx(estimate / welch["control_mean"])


def test_the_margin_of_a_proportion_takes_the_unpooled_variance(units):
    flags = ("--kind", "proportion", "--value", "bought", "--margin", "0.05")
    by_z = compare(units, *flags)["margin_tests"]
    by_welch = compare(units, *flags, "--method", "welch")["margin_tests"]
    assert by_z == by_welch


def test_effect_sizes(units):
    control, treatment = two_arms(units)
    row = compare(units, "--value", "y", "--effect-sizes")["effect_sizes"][0]
    difference = treatment.mean() - control.mean()
    pooled = math.sqrt((treatment.var(ddof=1) + control.var(ddof=1)) / 2)
    assert row["cohen_d"] == pytest.approx(difference / pooled)
    assert row["glass_delta"] == pytest.approx(difference / control.std(ddof=1))
    assert row["hedges_g"] == pytest.approx(row["cohen_d"] * (1 - 3 / (4 * 3000 - 9)))
    assert "cohen_h" not in row
    flags = ("--kind", "proportion", "--value", "bought", "--effect-sizes")
    row = compare(units, *flags)["effect_sizes"][0]
    p, q = (arm.mean() for arm in two_arms(units, "bought"))
    assert row["cohen_h"] == pytest.approx(2 * (math.asin(math.sqrt(q)) - math.asin(math.sqrt(p))))


# Rows, refusals, files


@pytest.mark.parametrize(
    "flags",
    [
        ("--value", "y"),
        ("--value", "y", "--method", "mann_whitney"),
        ("--value", "y", "--method", "trimmed"),
        ("--value", "y", "--method", "log1p"),
        ("--value", "y", "--covariates", "d", "--method", "pooled_theta"),
        ("--value", "y", "--strata", "stratum"),
        ("--value", "bought", "--kind", "proportion"),
        ("--value", "y", "--kind", "quantile", "--quantile", "0.5"),
    ],
)
def test_rows_are_records_and_p_and_interval_agree(units, flags):
    rows = estimates(units, *flags)
    assert [row["treatment"] for row in rows] == sorted(row["treatment"] for row in rows)
    for row in rows:
        assert (row["status"], row["reason"]) == ("ok", None)
        Estimate(**{name: row[name] for name in Estimate.__dataclass_fields__})
        if row["p_value"] is not None and row["interval"] is None:
            excludes = row["ci_low"] > 0 or row["ci_high"] < 0
            assert (row["p_value"] < 0.05) == excludes


def test_what_cannot_be_estimated_is_a_row_without_numbers(tmp_path):
    path = tmp_path / "units.csv"
    path.write_text("arm,y,e\n" + "a,0,1\nb,0,1\n" * 5 + "c,1,1\nc,2,1\n")
    first, second, lift = estimates((path, "arm", "a"), "--value", "y")
    assert (first["status"], first["reason"]) == ("not_estimable", "ZERO_VARIANCE")
    assert (first["estimate"], first["p_value"], first["n_control"]) == (None, None, None)
    assert set(first) == set(second) == set(lift)
    assert second["status"] == "ok"
    assert (lift["status"], lift["reason"]) == ("not_estimable", "ZERO_DENOMINATOR")
    flags = ("--value", "y", "--margin", "0.1", "--effect-sizes", "--dunnett")
    document = compare((path, "arm", "a"), *flags)
    assert [row["status"] for row in document["margin_tests"]] == ["not_estimable"] * 2
    assert document["effect_sizes"][0]["reason"] == "ZERO_VARIANCE"
    assert document["estimates"][0]["p_adjusted"] is None
    assert document["estimates"][1]["p_adjusted"] is not None


def test_a_covariate_missing_more_often_in_one_arm_blocks(tmp_path):
    arm = np.repeat(["a", "b"], 500)
    rng = np.random.default_rng(4)
    x = [
        None if lost else 1.0 * i for i, lost in enumerate((arm == "b") & (rng.random(1000) < 0.1))
    ]
    path = tmp_path / "leak.parquet"
    pl.DataFrame({"arm": arm, "y": rng.normal(size=1000), "x": x}).write_parquet(path)
    (row,) = estimates((path, "arm", "a"), "--value", "y", "--covariates", "x", code=5)
    assert row["reason"] == "NOT_IDENTIFIED"
    assert "missing in 0.00% and" in row["detail"]


def test_a_late_decimal_in_a_csv_is_a_number(tmp_path):
    path = tmp_path / "late.csv"
    path.write_text("arm,y\n" + "a,1\nb,2\n" * 300 + "a,1.5\nb,2.5\n")
    assert estimates((path, "arm", "a"), "--value", "y")[0]["n_control"] == 301


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (("--kind", "mode", "--value", "y"), ("--kind 'mode'", "mean, proportion")),
        (("--value", "y", "--method", "fisher"), ("--method 'fisher'", "--kind mean", "welch")),
        (("--value", "y", "--kind", "proportion"), ("--value y", "zeros and ones")),
        (("--value", "device"), ("--value device", "must be numbers")),
        (("--value", "y", "--numerator", "d"), ("--kind mean", "--value", "--numerator d")),
        (("--kind", "quantile", "--value", "y"), ("--quantile", "such as 0.9")),
        (("--kind", "quantile", "--value", "y", "--quantile", "1"), ("--quantile 1", "between")),
        (("--value", "y", "--quantile", "0.5"), ("--quantile 0.5", "--kind quantile")),
        (("--value", "y", "--alpha", "1"), ("--alpha 1", "between 0 and 1")),
        (
            ("--value", "y", "--method", "bootstrap", "--replicates", "10"),
            ("--replicates 10", "1000"),
        ),
        (("--value", "y", "--replicates", "5000"), ("--replicates 5000", "bootstrap")),
        (("--value", "y", "--seed", "1"), ("--seed 1", "permutation")),
        (("--value", "y", "--method", "permutation", "--seed", "-1"), ("--seed -1", "0 or more")),
        (("--value", "y", "--method", "lin"), ("--method lin", "--covariates")),
        (("--value", "y", "--method", "clustered"), ("--method clustered", "--cluster")),
        (("--value", "y", "--cluster", "d", "--method", "welch"), ("--cluster d", "clustered")),
        (("--value", "y", "--covariates", "y"), ("--covariates y", "--value already")),
        (("--value", "y", "--covariates", "arm"), ("--covariates arm", "--group-col already")),
        (
            ("--value", "y", "--covariates", "x", "--method", "within_theta"),
            ("within_theta", "one covariate", "x_missing"),
        ),
        (("--value", "y", "--margin", "-0.1"), ("--margin -0.1", "more than 0")),
        (("--value", "y", "--margin", "inf"), ("--margin inf", "finite")),
        (("--value", "y", "--direction", "increase"), ("--direction increase", "--margin")),
        (("--value", "y", "--margin", "1", "--direction", "up"), ("--direction 'up'", "decrease")),
        (
            ("--value", "y", "--margin", "1", "--margin-scale", "x"),
            ("--margin-scale 'x'", "absolute"),
        ),
        (("--value", "y", "--method", "trimmed", "--dunnett"), ("--dunnett", "trimmed", "welch")),
        (("--value", "y", "--treatment", "a"), ("--control a", "another arm")),
        (("--value", "y", "--treatment", "z"), ("--treatment z", "has a, b, c")),
    ],
)
def test_refusals_name_flag_value_and_rule(units, flags, parts):
    text = compare(units, *flags, code=2)
    for part in parts:
        assert part in text


@pytest.mark.parametrize(("name", "content"), [("x.parquet", "no"), ("x.txt", "arm,y\na,1\n")])
def test_files_that_cannot_be_read(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    assert name in compare((path, "arm", "a"), "--value", "y", code=2)


COMMANDS = {
    "power": ("power", "--kind", "mean", "--sd", "1", "--effect", "0.1"),
    "srm": ("srm", "--counts", "500,560"),
    "boundaries": ("boundaries", "--design", "pocock", "--information", "0.5,1"),
    "assign": ("assign", "--experiment", "e", "--units", "u1,u|2"),
    "multiplicity": ("multiplicity", "--p", "0.01,0.02", "--method", "holm"),
    "compare": ("compare", "--group-col", "arm", "--control", "a", "--value", "y"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_writes_its_files(command, units, tmp_path):
    arguments = COMMANDS[command]
    if command == "compare":
        arguments = (*arguments, "--input", units[0])
    as_json, as_markdown = tmp_path / "new" / "out.json", tmp_path / "out.md"
    files = ("--out-json", as_json, "--out-md", as_markdown)
    plain = run(*arguments, *files).stdout
    assert plain == run(*arguments).stdout
    assert as_json.read_text() == run(*arguments, "--json").stdout
    load(as_json.read_text())
    heading, _, header, rule, first, *_ = as_markdown.read_text().splitlines()
    assert heading.startswith("# ")
    cells = header.count("|")
    assert rule.count("|") == first.count("|") == cells > 2
    if command == "assign":
        assert r"u\|2" in as_markdown.read_text()


@pytest.mark.parametrize("flag", ["--out-json", "--out-md"])
def test_a_file_that_cannot_be_written_stops_the_command(flag, tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "out"
    result = run("srm", "--counts", "5,6", flag, path, code=2)
    assert f"{flag} {path}" in result.stderr.replace("\n", "")
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (("--value", "y"), ("mean of y", "units", "95% interval", "welch, fieller", "%")),
        (("--value", "bought", "--kind", "proportion"), ("conversion of bought", "pp", "newcombe")),
        (("--value", "y", "--kind", "quantile", "--quantile", "0.9"), ("p90 of y",)),
        (("--value", "d", "--method", "mann_whitney"), ("P(T > C) - 1/2", "mann_whitney,")),
        (
            ("--value", "y", "--covariates", "x,device", "--dunnett"),
            ("dunnett", "variance removed"),
        ),
        (
            ("--value", "y", "--method", "permutation", "--replicates", "99"),
            ("99 replicates, seed 0",),
        ),
        (
            ("--value", "y", "--strata", "stratum", "--margin", "0.1", "--effect-sizes"),
            ("equivalence: is the effect within 10%", "effect sizes", "cohen_d"),
        ),
        (
            ("--value", "y", "--margin", "0.1", "--direction", "decrease", "--alpha", "0.1"),
            ("at most 10% higher", "90% bound", "90% interval"),
        ),
    ],
)
def test_people_get_tables_that_fit(units, flags, parts):
    path, group, control = units
    text = run(
        "compare", "--input", path, "--group-col", group, "--control", control, *flags
    ).stdout
    for part in parts:
        assert part in text
    assert max(map(len, text.splitlines())) <= WIDEST_LINE
    assert "\N{MINUS SIGN}" not in text


def test_people_read_why_there_is_no_number(tmp_path):
    path = tmp_path / "constant.csv"
    path.write_text("arm,y\n" + "[red]a,1\nb,1\n" * 3)
    files = ("--input", path, "--group-col", "arm", "--control", "[red]a", "--value", "y")
    text = run("compare", *files, code=5).stdout
    assert "the variance is zero" in text
    assert "[red]a" in text
    assert "[ZERO_VARIANCE]" in text


def split_file(folder, sizes, **columns):
    """Units of arms in these numbers."""
    arms = [arm for arm, n in sizes.items() for _ in range(n)]
    y = np.random.default_rng(5).normal(size=len(arms))
    path = folder / "split.parquet"
    pl.DataFrame({"arm": arms, "y": y, **columns}).write_parquet(path)
    return path, "arm", "a"


def test_the_sample_ratio_of_cookie_cats_warns_and_does_not_block():
    """p = 0.0086: below 0.01, not below 0.001."""
    found = compare(COOKIES, "--value", "sum_gamerounds")
    ratio, published = found["sample_ratio"], expected("cookie_cats", "srm_50_50")
    assert ratio["p_value"] == near(published["p"])
    assert ratio["chi2"] == near(published["chi2"])
    assert ratio["counts"] == {"gate_30": 44_700, "gate_40": 45_489}
    assert ratio["shares"] == {"gate_30": 0.5, "gate_40": 0.5}
    assert (ratio["df"], ratio["shares_given"], ratio["verdict"]) == (1, False, "warn")
    (warning,) = found["warnings"]
    assert "give --shares" in warning


def test_shares_are_what_the_sample_ratio_is_held_against():
    """Lalonde's experiment has 185 treated of 445: wrong for a half, right for what was done."""
    flags = ("--value", "re78")
    assert compare(NSW, *flags)["sample_ratio"]["verdict"] == "block"
    given = compare(NSW, *flags, "--shares", f"0={260 / 445},1={185 / 445}")
    assert given["sample_ratio"]["verdict"] == "ok"
    assert given["sample_ratio"]["p_value"] == pytest.approx(1)
    assert given["warnings"] == []


def test_three_arms_have_one_sample_ratio_with_two_degrees_of_freedom(tmp_path):
    source = split_file(tmp_path, {"a": 1000, "b": 1050, "c": 800})
    ratio = compare(source, "--value", "y")["sample_ratio"]
    wanted = stats.chisquare([1000, 1050, 800])
    assert ratio["chi2"] == pytest.approx(wanted.statistic)
    assert ratio["p_value"] == pytest.approx(wanted.pvalue)
    assert (ratio["df"], ratio["verdict"]) == (2, "block")
    # Only arms that are compared take part.
    two = compare(source, "--value", "y", "--treatment", "b")["sample_ratio"]
    assert two["counts"] == {"a": 1000, "b": 1050}
    assert two["verdict"] == "ok"


def test_the_sample_ratio_counts_clusters_not_rows(tmp_path):
    """40 against 40 stores; rows, 10 against 30 a store, would be a mismatch beyond doubt."""
    store = [*np.repeat(np.arange(40), 10), *np.repeat(np.arange(40, 80), 30)]
    source = split_file(tmp_path, {"a": 400, "b": 1200}, store=store)
    ratio = compare(source, "--value", "y", "--cluster", "store")["sample_ratio"]
    assert ratio["counts"] == {"a": 40, "b": 40}
    assert ratio["verdict"] == "ok"
    assert compare(source, "--value", "y")["sample_ratio"]["verdict"] == "block"


def test_clusters_in_both_arms_are_no_units_of_the_sample_ratio(tmp_path):
    source = split_file(tmp_path, {"a": 4, "b": 4}, store=[1, 2, 3, 4] * 2)
    found = compare(source, "--value", "y", "--cluster", "store", code=5)
    assert found["sample_ratio"]["verdict"] == "not_estimable"
    assert found["sample_ratio"]["reason"] == "EMPTY_ARM"
    assert found["estimates"][0]["reason"] == "NOT_IDENTIFIED"


def test_a_wrong_split_is_said_on_screen_and_in_the_table(tmp_path):
    path, *_ = split_file(tmp_path, {"a": 1000, "b": 700})
    flags = ("compare", "--input", path, "--group-col", "arm", "--control", "a", "--value", "y")
    result = run(*flags)
    assert "warning: sample ratio against equal shares" in result.stderr.replace("\n", " ")
    assert "a 1,000, b 700; chi-square p = 3.44e-13; the split is wrong" in result.stdout
    fine = run(*flags, "--shares", "a=0.6,b=0.4")
    assert fine.stderr == ""
    assert "sample ratio against the given shares: a 1,000, b 700" in fine.stdout


@pytest.mark.parametrize(
    ("shares", "rule"),
    [
        ("a=0.5,c=0.5", "--shares names a, c; the arms are a, b"),
        ("a=0.5,b=0.6", "must add up to 1"),
        ("a=1,b=0", "each share above 0"),
        ("half", "must be arm=share"),
    ],
)
def test_shares_that_do_not_fit_are_refused(tmp_path, shares, rule):
    source = split_file(tmp_path, {"a": 50, "b": 50})
    refused = compare(source, "--value", "y", "--shares", shares, code=2)
    assert rule in refused.replace("\n", " ")
