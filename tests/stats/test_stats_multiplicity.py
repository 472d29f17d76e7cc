import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from statsmodels.stats.multitest import fdrcorrection, multipletests

from experiments_dagster.stats.multiplicity import (
    FAMILIES,
    METHODS,
    adjusted_p_values,
    e_bh,
    fcr_levels,
    weighted_bonferroni,
    weighted_holm,
)

STATSMODELS = {
    "bonferroni": "bonferroni",
    "holm": "holm",
    "hochberg": "simes-hochberg",
    "bh": "fdr_bh",
    "by": "fdr_by",
}
ROUNDING = 1e-12  # products and quotients of a few doubles

# A coarse grid makes ties common.
p_lists = st.lists(
    st.one_of(st.floats(0, 1), st.integers(0, 20).map(lambda i: i / 20)), min_size=1, max_size=30
)


@pytest.mark.parametrize(
    ("method", "key"),
    [
        ("bonferroni", "bonf"),
        ("holm", "holm"),
        ("hochberg", "hoch"),
        ("bh", "bh"),
        ("by", "by"),
    ],
)
def test_reference_benjamini_hochberg_1995(reference, method, key):
    case = reference("fixed", "bh1995_pvalues")
    p = case.expected["p"]
    case.check(adjusted_p_values(p, method), case.expected[key])
    order = np.random.default_rng(1).permutation(len(p))
    shuffled = adjusted_p_values([p[i] for i in order], method)
    case.check(shuffled, [case.expected[key][i] for i in order])


def test_the_paper_rejects_three_by_bonferroni_and_four_by_bh(reference):
    p = reference("fixed", "bh1995_pvalues").expected["p"]
    rejected = {m: sum(q <= 0.05 for q in adjusted_p_values(p, m)) for m in METHODS}
    assert (rejected["bonferroni"], rejected["bh"]) == (3, 4)


@given(p_lists, st.sampled_from(METHODS))
def test_agrees_with_statsmodels(p, method):
    live = multipletests(p, method=STATSMODELS[method])[1]
    assert adjusted_p_values(p, method) == pytest.approx(live, rel=ROUNDING, abs=1e-300)


@given(p_lists, st.integers(0, 5))
def test_methods_are_ordered_and_monotone(p, missing):
    planned = len(p) + missing
    adjusted = {m: np.array(adjusted_p_values(p, m, planned=planned)) for m in METHODS}
    slack = 1 + ROUNDING
    assert (adjusted["holm"] <= adjusted["bonferroni"] * slack).all()
    assert (adjusted["hochberg"] <= adjusted["holm"] * slack).all()
    assert (adjusted["bh"] <= adjusted["hochberg"] * slack).all()
    assert (adjusted["bh"] <= adjusted["by"] * slack).all()
    order = np.argsort(p, kind="stable")
    for values in adjusted.values():
        assert (values >= np.array(p) * (1 - ROUNDING)).all()
        assert (values <= 1).all()
        assert (np.diff(values[order]) >= 0).all()
        ties = np.diff(np.array(p)[order]) == 0
        assert (np.diff(values[order])[ties] == 0).all()


@given(p_lists, st.integers(0, 8), st.sampled_from(METHODS))
def test_hypotheses_not_computed_count_as_one(p, missing, method):
    written_out = adjusted_p_values([*p, *[1.0] * missing], method)
    assert adjusted_p_values(p, method, planned=len(p) + missing) == written_out[: len(p)]


@given(p_lists, st.sampled_from(METHODS), st.sampled_from([0.01, 0.05, 0.2]))
def test_adjusted_below_the_level_exactly_where_the_procedure_rejects(p, method, alpha):
    """Step-down, step-up and single-step rules written as their papers put them."""
    ordered = sorted(p)
    m = len(p)
    harmonic = sum(1 / i for i in range(1, m + 1))
    limit = {
        "bonferroni": lambda i: alpha / m,
        "holm": lambda i: alpha / (m - i + 1),
        "hochberg": lambda i: alpha / (m - i + 1),
        "bh": lambda i: i * alpha / m,
        "by": lambda i: i * alpha / (m * harmonic),
    }[method]
    passes = [ordered[i - 1] <= limit(i) for i in range(1, m + 1)]
    margins = [abs(ordered[i - 1] - limit(i)) for i in range(1, m + 1)]
    if min(margins) < 1e-12:
        return
    if method == "bonferroni":
        expected = sum(passes)
    elif method == "holm":
        expected = passes.index(False) if False in passes else m
    else:
        expected = max((i for i in range(1, m + 1) if passes[i - 1]), default=0)
    assert sum(q <= alpha for q in adjusted_p_values(p, method)) == expected


def test_cutting_off_before_the_running_maximum_would_show():
    """The wrong twin: without the running maximum Holm's 0.04·1 would fall below 0.03·2."""
    p = [0.01, 0.03, 0.04]
    without_maximum = [0.03, 0.06, 0.04]
    assert adjusted_p_values(p, "holm") == pytest.approx((0.03, 0.06, 0.06), rel=ROUNDING)
    assert adjusted_p_values(p, "holm") != pytest.approx(without_maximum, rel=ROUNDING)


@given(p_lists)
def test_equal_weights_are_the_plain_methods(p):
    weights = [1 / len(p)] * len(p)
    plain = adjusted_p_values(p, "bonferroni"), adjusted_p_values(p, "holm")
    assert weighted_bonferroni(p, weights) == pytest.approx(plain[0], rel=1e-10, abs=1e-300)
    assert weighted_holm(p, weights) == pytest.approx(plain[1], rel=1e-10, abs=1e-300)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 10)), min_size=1, max_size=12),
    st.sampled_from([0.01, 0.05, 0.2]),
)
def test_weighted_holm_rejects_what_its_steps_reject(pairs, alpha):
    p, raw = map(np.array, zip(*pairs, strict=True))
    w = raw / raw.sum()
    adjusted = np.array(weighted_holm(p, w))
    if (np.abs(adjusted - alpha) < 1e-10).any():
        return
    remaining, rejected = list(np.argsort(p / w, kind="stable")), set()
    while remaining and p[remaining[0]] <= alpha * w[remaining[0]] / w[remaining].sum():
        rejected.add(remaining.pop(0))
    assert set(np.flatnonzero(adjusted <= alpha)) == rejected
    assert (adjusted <= np.array(weighted_bonferroni(p, w)) * (1 + 1e-10)).all()


def test_weights_written_with_three_digits_are_accepted():
    assert weighted_holm([0.01] * 3, [0.3333333, 0.3333333, 0.3333333])[0] == pytest.approx(0.03)


def test_fcr_levels_follow_the_selection(reference):
    p = reference("fixed", "bh1995_pvalues").expected["p"]
    rejected, _ = fdrcorrection(p, 0.05)
    levels = fcr_levels(p, q=0.05)
    assert [level is not None for level in levels] == list(rejected)
    assert levels[0] == pytest.approx(1 - 4 * 0.05 / 15, rel=ROUNDING)
    assert fcr_levels([0.001, 0.002], q=0.1) == (0.9, 0.9)
    assert fcr_levels([0.001, 0.9], q=0.1, planned=10) == (0.99, None)


@pytest.mark.slow
def test_fcr_intervals_cover_where_plain_ones_do_not():
    rng = np.random.default_rng(7)
    q, m, runs = 0.1, 40, 1500
    missed = {"fcr": [], "plain": []}
    for _ in range(runs):
        truth = np.where(np.arange(m) < 8, 1.0, 0.0)
        z = truth + rng.normal(size=m)
        levels = fcr_levels((2 * ndtr(-np.abs(z))).tolist(), q=q)
        chosen = [i for i, level in enumerate(levels) if level is not None]
        error = np.abs(z - truth)[chosen]
        fcr = error > [-ndtri((1 - levels[i]) / 2) for i in chosen]
        missed["fcr"].append(fcr.sum() / max(1, len(chosen)))
        missed["plain"].append((error > -ndtri(q / 2)).sum() / max(1, len(chosen)))
    margin = 3.3 * np.std(missed["fcr"]) / math.sqrt(runs)
    assert np.mean(missed["fcr"]) < q + margin
    assert np.mean(missed["plain"]) > q + margin


@given(st.lists(st.floats(-5, 12), min_size=1, max_size=20), st.integers(0, 4))
def test_e_bh_selects_by_its_definition(log_e, missing):
    q, m = 0.05, len(log_e) + missing
    ordered = sorted(log_e, reverse=True)
    sizes = [k for k in range(1, len(log_e) + 1) if ordered[k - 1] >= math.log(m / (q * k))]
    if any(abs(ordered[k - 1] - math.log(m / (q * k))) < 1e-9 for k in range(1, len(log_e) + 1)):
        return
    assert sum(e_bh(log_e, q=q, planned=m)) == max(sizes, default=0)


def test_e_bh_takes_huge_and_absent_evidence():
    assert e_bh([5000.0, -math.inf]) == (True, False)


def test_families_say_what_they_correct():
    assert set(FAMILIES) == {"success", "guardrail", "deterioration", "quality", "exploratory"}
    assert FAMILIES["success"].correction == "holm"
    assert FAMILIES["success"].sequential_correction == "bonferroni"
    assert FAMILIES["guardrail"].correction == "none"
    assert FAMILIES["deterioration"].own_alpha == 0.01
    assert FAMILIES["exploratory"].correction == "bh"
    with pytest.raises(TypeError):
        FAMILIES["success"] = FAMILIES["guardrail"]


def test_no_hypotheses_is_no_p_values():
    assert all(adjusted_p_values([], method) == () for method in METHODS)


@pytest.mark.parametrize("bad", [math.nan, -0.01, 1.01, math.inf])
def test_refuses_what_is_not_a_probability(bad):
    with pytest.raises(ValueError, match=r"p-value 2 is .*need 0\.\.1"):
        adjusted_p_values([0.1, bad], "bh")
    with pytest.raises(ValueError, match="p-value 1"):
        weighted_holm([bad], [1.0])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: adjusted_p_values([0.1], "sidak"), "method is 'sidak'"),
        (lambda: adjusted_p_values([0.1, 0.2], "bh", planned=1), "planned is 1"),
        (lambda: weighted_bonferroni([0.1, 0.2], [1.0]), "1 weights for 2"),
        (lambda: weighted_bonferroni([0.1, 0.2], [0.5, 0.4]), "sum to 1"),
        (lambda: weighted_holm([0.1, 0.2], [1.0, 0.0]), "above 0"),
        (lambda: weighted_holm([0.1, 0.2], [math.nan, 0.5]), "above 0"),
        (lambda: fcr_levels([0.1], q=0.0), "alpha is 0"),
        (lambda: e_bh([math.nan]), "p-value 1 is nan"),
    ],
)
def test_refusals_name_subject_and_rule(call, text):
    with pytest.raises(ValueError, match=text):
        call()
