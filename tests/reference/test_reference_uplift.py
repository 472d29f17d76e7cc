"""Every number of `uplift/expected.json`: learners with a linear base, Qini and uplift curves."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from experiments_dagster.causal.units.learners import fit_uplift
from experiments_dagster.causal.units.uplift_curves import uplift_at_share, uplift_curve

DATA = Path(__file__).parents[3] / "shared" / "data" / "uplift"
ARMS = {"hillstrom_A_half_mens": "Mens E-Mail", "hillstrom_A_half_womens": "Womens E-Mail"}
KEYS = (
    "n",
    "ate_dim",
    "sklift_qini_auc",
    "sklift_uplift_auc",
    "uplift_at_30_overall",
    "uplift_at_30_by_group",
    "qini_curve_end",
    "qini_area_minus_random_per_n2",
    "S_linear_ate",
    "T_linear_ate",
    "T_linear_cate_sd",
    "X_linear_ate",
    "sklift_qini_auc_T_linear",
)

pytestmark = pytest.mark.skipif(not DATA.exists(), reason=f"no reference data at {DATA}")


def cases():
    return {case["case"]: case for case in json.loads((DATA / "expected.json").read_text())}


def columns(case):
    """Outcome, treatment, learner features and score of the case's two arms."""
    frame = pl.read_parquet(DATA / case["data"]).filter(
        pl.col("segment").is_in([case["spec"]["control"], ARMS[case["case"]]])
    )
    score = frame.select(pl.sql_expr(case["spec"]["score"]).alias("score"))["score"].to_numpy()
    t = (frame["segment"] == ARMS[case["case"]]).to_numpy()
    x = frame.select(case["spec"]["learner_features"]).to_numpy().astype(float)
    return frame[case["spec"]["y"]].to_numpy().astype(float), t, x, score


def numbers(case):
    """The case fits and predicts the same units; the share is that of the sample."""
    y, t, x, score = columns(case)
    fits = {key: fit_uplift(y, t, x, learner=key, propensity=t.mean()) for key in ("s", "t", "x")}
    qini = uplift_curve(y, t, score, kind="qini")
    return {
        "n": len(y),
        "ate_dim": y[t].mean() - y[~t].mean(),
        "sklift_qini_auc": qini.normalised_area,
        "sklift_uplift_auc": uplift_curve(y, t, score, kind="uplift").normalised_area,
        "uplift_at_30_overall": uplift_at_share(y, t, score, share=0.3).estimate,
        "uplift_at_30_by_group": uplift_at_share(
            y, t, score, share=0.3, share_of="by_group"
        ).estimate,
        "qini_curve_end": qini.end,
        "qini_area_minus_random_per_n2": qini.area_minus_random_per_n2,
        "S_linear_ate": fits["s"].effects.mean(),
        "T_linear_ate": fits["t"].effects.mean(),
        "T_linear_cate_sd": fits["t"].effects.std(),
        "X_linear_ate": fits["x"].effects.mean(),
        "sklift_qini_auc_T_linear": uplift_curve(
            y, t, fits["t"].effects, kind="qini"
        ).normalised_area,
    }


@pytest.fixture(scope="module")
def found():
    return {name: numbers(case) for name, case in cases().items()}


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("key", KEYS)
def test_reference(name, key, found):
    case = cases()[name]
    expected, tolerance = case["expected"][key], case["tolerance"]["rel"]
    assert found[name][key] == pytest.approx(expected, rel=tolerance, abs=0)


def test_nothing_is_skipped(found):
    assert set(cases()) == set(ARMS)
    for name, case in cases().items():
        assert set(case["expected"]) == set(KEYS) == set(found[name])


def test_the_comparison_can_fail(found):
    """Wrong twins: one definition for another, the sample sd for that of the population."""
    case = cases()["hillstrom_A_half_mens"]
    mine, expected, rel = found[case["case"]], case["expected"], case["tolerance"]["rel"]
    for wrong, key in (
        ("sklift_uplift_auc", "sklift_qini_auc"),
        ("uplift_at_30_by_group", "uplift_at_30_overall"),
        ("S_linear_ate", "ate_dim"),
        ("qini_area_minus_random_per_n2", "sklift_qini_auc"),
    ):
        assert mine[wrong] != pytest.approx(expected[key], rel=rel, abs=0)


def test_the_womens_mail_has_responders_to_find_and_the_mens_mail_none_reliably():
    """On unseen folds, five features: what the case's in-sample learners cannot say."""
    from experiments_dagster.causal.units.heterogeneity_proof import prove_heterogeneity

    findings = {}
    for name, case in cases().items():
        y, t, x, _ = columns(case)
        fit = fit_uplift(y, t, x, propensity=0.5, unit_keys=np.arange(len(y)))
        assert fit.average.estimate == pytest.approx(case["expected"]["ate_dim"], abs=0.003)
        proof = findings[name] = prove_heterogeneity(fit)
        assert proof.blp_slope.ci_low <= 1
    women, men = findings["hillstrom_A_half_womens"], findings["hillstrom_A_half_mens"]
    assert women.p_value < 1e-6
    assert 0.5 < women.calibration_slope.estimate < 1.5
    assert men.finding == "no reliable heterogeneity"
