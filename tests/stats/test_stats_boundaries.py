import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments_dagster.stats.sequential.boundaries import (
    design_boundaries,
    first_crossings,
    next_boundary,
    solve_boundaries,
)
from experiments_dagster.stats.sequential.recursion import (
    crossing_probabilities,
    exit_probabilities,
)
from experiments_dagster.stats.sequential.spending import cumulative_alpha

DESIGNS = {
    "P": "pocock",
    "OF": "obrien_fleming",
    "LDOF": "lan_demets_obrien_fleming",
    "LDP": "lan_demets_pocock",
    "HSD": "hwang_shih_decani",
    "KD": "kim_demets",
    "WT": "wang_tsiatis",
}
CASES = [
    *(f"bounds_{name}_K{k}" for name in ("pocock", "obf") for k in (2, 3, 4, 5)),
    "bounds_ldof_K5_2s05",
    "bounds_ldp_K5_2s05",
    "bounds_ldof_K3_1s025",
    "bounds_hsd-4_K4_2s05",
    "bounds_kd3_K4_1s025",
    "bounds_ldof_uneq_2s05",
    "bounds_wt0.25_K5",
]
# The reference prints ten digits and its own engine stops at 1e-8.
OURS = 1e-6

fractions = st.lists(st.integers(1, 100), min_size=1, max_size=8, unique=True).map(
    lambda ints: [i / max(ints) for i in sorted(ints)]
)

spendings = st.sampled_from(["obrien_fleming", "pocock", "kim_demets", "hwang_shih_decani"])


@pytest.mark.parametrize("case", CASES)
def test_reference_boundaries(reference, case):
    expected = reference("sequential", case)
    spec, numbers = expected.spec, expected.expected
    design = design_boundaries(
        DESIGNS[spec["spending"]],
        spec["info"],
        alpha=spec["alpha"],
        sides=spec["sided"],
        parameter=spec["par"] or None,
    )
    expected.check(list(design.critical_values), numbers["critical_values"])
    assert list(design.critical_values) == pytest.approx(numbers["critical_values"], abs=OURS)
    assert list(design.cumulative_alpha) == pytest.approx(numbers["cumulative_alpha"], abs=OURS)
    assert list(design.nominal_levels) == pytest.approx(
        numbers["nominal_one_sided_levels"], abs=OURS
    )


@given(fractions, spendings, st.sampled_from([1, 2]))
def test_a_plan_spends_exactly_alpha(information, spending, sides):
    plan = solve_boundaries(information, alpha=0.05, sides=sides, spending=spending)
    total = crossing_probabilities(information, plan.critical_values, sides=sides).total
    assert total == pytest.approx(0.05, abs=1e-9)
    assert plan.cumulative_alpha[-1] == pytest.approx(0.05, abs=1e-15)


@given(fractions, spendings, st.sampled_from([1, 2]))
def test_look_by_look_gives_the_boundaries_of_the_plan(information, spending, sides):
    plan = solve_boundaries(information, alpha=0.05, sides=sides, spending=spending)
    stored, spent = [], 0.0
    for t, critical in zip(information, plan.critical_values, strict=True):
        look = next_boundary(
            stored,
            t=t,
            cumulative_alpha_now=cumulative_alpha(spending, t, alpha=0.05, sides=sides),
            alpha_spent=spent,
            sides=sides,
        )
        assert look.critical_value == (critical if critical is None else pytest.approx(critical))
        stored.append((t, look.critical_value))
        spent = look.alpha_spent
    assert spent == pytest.approx(0.05)


@given(st.integers(2, 8))
def test_obrien_fleming_boundaries_decrease_and_one_look_is_the_fixed_test(k):
    information = [(i + 1) / k for i in range(k)]
    critical = solve_boundaries(information, alpha=0.05).critical_values
    finite = [c for c in critical if c is not None]
    assert finite == sorted(finite, reverse=True)
    single = solve_boundaries([1.0], alpha=0.05).critical_values[0]
    assert single == pytest.approx(1.959964, abs=1e-6)


def test_recursion_agrees_with_the_multivariate_normal():
    t = np.array([0.2, 0.5, 0.7, 1.0])
    critical = [2.9, 2.5, 2.4, 2.1]
    correlation = np.sqrt(np.minimum.outer(t, t) / np.maximum.outer(t, t))
    drift = 2.0
    inside = stats.multivariate_normal(drift * np.sqrt(t), correlation).cdf(
        critical, lower_limit=np.negative(critical), rng=np.random.default_rng(0)
    )
    total = crossing_probabilities(t.tolist(), critical, drift=drift).total
    assert total == pytest.approx(1 - inside, abs=2e-5)


def test_early_looks_without_resolvable_alpha_cannot_stop_and_pass_it_on():
    information = [(i + 1) / 50 for i in range(50)]
    plan = solve_boundaries(information, alpha=0.05)
    assert plan.critical_values[0] is None
    assert plan.nominal_levels[0] is None
    assert plan.cumulative_alpha[0] == 0
    total = crossing_probabilities(information, plan.critical_values).total
    assert total == pytest.approx(0.05, abs=1e-9)


def test_overrun_and_underrun_spend_what_is_left():
    first = next_boundary([], t=0.5, cumulative_alpha_now=0.003, alpha_spent=0.0)
    for t in (0.8, 1.0):
        last = next_boundary(
            [(0.5, first.critical_value)], t=t, cumulative_alpha_now=0.05, alpha_spent=0.003
        )
        total = crossing_probabilities([0.5, t], [first.critical_value, last.critical_value]).total
        assert total == pytest.approx(0.05, abs=1e-9)


@pytest.mark.parametrize("t", [0.5, 0.4])
def test_no_new_information_spends_nothing(t):
    look = next_boundary([(0.5, 2.9)], t=t, cumulative_alpha_now=0.02, alpha_spent=0.003)
    assert (look.critical_value, look.alpha_spent) == (None, 0.003)
    assert look.reason == "INFORMATION_DECREASED"


def test_nothing_left_to_spend_cannot_stop():
    look = next_boundary([(0.5, 2.9)], t=0.6, cumulative_alpha_now=0.003, alpha_spent=0.003)
    assert (look.critical_value, look.reason) == (None, "NO_STOP_AT_THIS_LOOK")


def test_looks_too_close_to_resolve_are_conservative():
    loose = next_boundary([], t=0.500001, cumulative_alpha_now=0.03, alpha_spent=0.0)
    close = next_boundary([(0.5, 2.5)], t=0.500001, cumulative_alpha_now=0.0424, alpha_spent=0.0124)
    assert close.critical_value == pytest.approx(loose.critical_value)
    with pytest.raises(ValueError, match="increase"):
        solve_boundaries([0.5, 0.500001, 1.0], alpha=0.05)


def test_near_looks_agree_with_a_finer_rule():
    near = solve_boundaries([0.5, 0.5005, 1.0], alpha=0.05, spending="pocock").critical_values
    merged = solve_boundaries([0.5, 1.0], alpha=0.05, spending="pocock").critical_values
    assert near[2] == pytest.approx(merged[1], abs=2e-3)


@pytest.mark.alone
def test_fifty_looks_take_under_fifty_milliseconds():
    information = [(i + 1) / 50 for i in range(50)]
    solve_boundaries(information, alpha=0.05)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        solve_boundaries(information, alpha=0.05)
        seconds.append(time.perf_counter() - started)
    # 19 ms on the build machine.
    assert min(seconds) < 0.05


def test_haybittle_peto_solves_the_last_bound_only():
    design = design_boundaries("haybittle_peto", [0.25, 0.5, 0.75, 1.0])
    assert design.critical_values[:3] == (3.0, 3.0, 3.0)
    assert 1.95 < design.critical_values[3] < 2.05
    assert design.cumulative_alpha[-1] == pytest.approx(0.05, abs=1e-10)


def test_naive_obrien_fleming_without_its_constant_is_too_liberal():
    t = [0.2, 0.4, 0.6, 0.8, 1.0]
    naive = [1.959964 / x**0.5 for x in t]
    assert crossing_probabilities(t, naive).total == pytest.approx(0.061, abs=5e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solve_boundaries([0.5, 0.4], alpha=0.05), "increase"),
        (lambda: solve_boundaries([0.5, 1.1], alpha=0.05), "increase"),
        (lambda: solve_boundaries([], alpha=0.05), "no information"),
        (lambda: solve_boundaries([1.0], alpha=0.0), "alpha"),
        (lambda: solve_boundaries([1.0], alpha=0.05, sides=3), "sides"),
        (lambda: design_boundaries("wald", [1.0]), "unknown design"),
        (lambda: design_boundaries("haybittle_peto", [0.5, 1.0], parameter=1.0), "early"),
        (lambda: crossing_probabilities([0.5, 1.0], [2.0]), "critical values"),
        (
            lambda: next_boundary([(0.5, 2.0)], t=1.2, cumulative_alpha_now=0.05, alpha_spent=0),
            "stored ones",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock"])
def test_size_when_boundaries_are_solved_as_data_arrive(spending, monte_carlo_band):
    """Looks at random, uneven times; each boundary is solved with the stored ones only."""
    rng = np.random.default_rng(11)
    runs, rejections, naive = 2000, 0, 0
    for _ in range(runs):
        looks = np.sort(rng.choice(np.arange(1, 20), size=4, replace=False)) / 20
        stored, spent, path, z_path = [], 0.0, 0.0, []
        stopped, last_t = False, 0.0
        for t in [*looks.tolist(), 1.0]:
            path += rng.normal() * np.sqrt(t - last_t)
            last_t, z = t, path / np.sqrt(t)
            look = next_boundary(
                stored,
                t=t,
                cumulative_alpha_now=cumulative_alpha(spending, t, alpha=0.05),
                alpha_spent=spent,
            )
            spent = look.alpha_spent
            stored.append((t, look.critical_value))
            z_path.append(abs(z))
            stopped |= look.critical_value is not None and abs(z) >= look.critical_value
        rejections += stopped
        naive += max(z_path) >= 1.959964
    low, high = monte_carlo_band(0.05, runs)
    assert low <= rejections / runs <= high
    # The planted fault: the fixed bound at every look must leave the band.
    assert naive / runs > high


def test_first_crossings_by_hand():
    scores = [[3.0, 0.0, 0.0], [-3.1, 9.0, 0.0], [0.0, 9.0, -2.1], [0.0, 9.0, 1.9]]
    critical = [2.9, None, 2.0]
    assert first_crossings(scores, critical).tolist() == [0, 0, 2, -1]
    assert first_crossings(scores, critical, sides=1).tolist() == [0, -1, -1, -1]
    for wrong in ([[1.0, 2.0]], [1.0, 2.0, 3.0], [[1.0, np.nan, 2.0]]):
        with pytest.raises(ValueError, match="z for each look"):
            first_crossings(wrong, critical)


def test_exits_from_regions_with_two_bounds_agree_with_the_multivariate_normal():
    t = np.array([0.3, 0.6, 1.0])
    low, high = np.array([-0.5, 0.7, 1.9]), np.array([3.2, 2.6, 2.1])
    correlation = np.sqrt(np.minimum.outer(t, t) / np.maximum.outer(t, t))
    inside = stats.multivariate_normal(2.4 * np.sqrt(t), correlation).cdf(
        high, lower_limit=low, rng=np.random.default_rng(0)
    )
    regions = list(zip(low.tolist(), high.tolist(), strict=True))
    crossing = exit_probabilities(t.tolist(), regions, drift=2.4)
    assert crossing.total == pytest.approx(1 - inside, abs=2e-5)
    with pytest.raises(ValueError, match="increase"):
        exit_probabilities([0.5, 0.4], regions[:2])
