"""Error rates of repeated looks, each with a planted fault that must leave its band (METHODS 14).

`CALIBRATION_REPLICATES` sets the number of runs R; the bands follow from it.
"""

import functools
import math
import os
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments_dagster.stats.sequential.boundaries import (
    first_crossings,
    next_boundary,
    solve_boundaries,
)
from experiments_dagster.stats.sequential.confidence_sequence import (
    confidence_sequence,
    tuning_information,
)
from experiments_dagster.stats.sequential.longitudinal import (
    longitudinal_boundary,
    score_products,
    spending_fraction,
)
from experiments_dagster.stats.sequential.recursion import crossing_probabilities
from experiments_dagster.stats.sequential.spending import cumulative_alpha

RUNS = int(os.environ.get("CALIBRATION_REPLICATES", "2000"))
ALPHA = 0.05
DAYS = 28
UNITS_PER_DAY = 40  # per arm
FIXED_Z = 1.959964


def band(rate, runs):
    """Two-sided, 99.9 %."""
    half = 3.290527 * math.sqrt(rate * (1 - rate) / runs)
    return rate - half, rate + half


def ceiling(rate, runs):
    """One-sided, for rules that may be conservative."""
    return rate + 1.644854 * math.sqrt(rate * (1 - rate) / runs)


def daily_streams(rng, runs, *, arms=2):
    """Running means and their variances of exponential outcomes, shape (runs, arms, days)."""
    outcomes = rng.exponential(size=(runs, arms, DAYS, UNITS_PER_DAY))
    n = UNITS_PER_DAY * np.arange(1, DAYS + 1)
    means = outcomes.sum(-1).cumsum(-1) / n
    squares = (outcomes**2).sum(-1).cumsum(-1)
    return means, (squares / n - means**2) / (n - 1)


@functools.lru_cache(maxsize=4096)
def boundaries_as_data_arrive(fractions, *, spending="obrien_fleming", alpha=ALPHA, sides=2):
    """The stored boundary of every look, each solved with nothing but the earlier ones."""
    stored, critical_values, spent = [], [], 0.0
    for number, fraction in enumerate(fractions, start=1):
        t, is_last = min(fraction, 1.0), number == len(fractions)
        allowed = alpha
        if t < 1 and not is_last:
            allowed = cumulative_alpha(spending, t, alpha=alpha, sides=sides)
        look = next_boundary(
            stored,
            t=t,
            cumulative_alpha_now=max(allowed, spent),
            alpha_spent=spent,
            sides=sides,
        )
        if look.reason != "INFORMATION_DECREASED":
            stored.append((t, look.critical_value))
        critical_values.append(look.critical_value)
        spent = look.alpha_spent
    return tuple(critical_values)


def calendar(rng, looks):
    """Days of the planned looks from 0, some skipped, two added, the last one kept."""
    planned = np.round(DAYS * np.arange(1, looks + 1) / looks).astype(int) - 1
    kept = planned[rng.random(looks) > 0.2]
    return np.union1d(kept, [*rng.choice(DAYS, size=2), DAYS - 1])


@pytest.mark.slow
@pytest.mark.parametrize("looks", [5, 10])
def test_size_with_estimated_information(looks):
    """The whole rule: t_k = I_k/I_max from the data, I_max from the plan, looks as they come."""
    rng = np.random.default_rng(100 + looks)
    planned = DAYS * UNITS_PER_DAY / 2  # variance 1 in either arm
    rejected = naive = 0
    for _ in range(RUNS):
        means, variances = daily_streams(rng, 1)
        days = calendar(rng, looks)
        information = 1 / variances[0].sum(axis=0)[days]
        z = (means[0, 1] - means[0, 0])[days] * np.sqrt(information)
        critical = boundaries_as_data_arrive(tuple((information / planned).tolist()))
        rejected += int(first_crossings(z[None], critical)[0] >= 0)
        # The planted fault: a plan made anew from the largest information seen is always at its
        # end, t = 1, and its one look has the fixed bound.
        naive += int(np.abs(z).max() >= FIXED_Z)
    low, high = band(ALPHA, RUNS)
    assert low <= rejected / RUNS <= high
    assert naive / RUNS > high


@pytest.mark.slow
@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock"])
def test_size_of_28_daily_looks(spending):
    """Information by counts; forty runs share a calendar, and so the boundaries of its looks."""
    rng = np.random.default_rng(128)
    together = 40
    rejected, naive = [], []
    for _ in range(math.ceil(RUNS / together)):
        days = calendar(rng, DAYS)
        means, variances = daily_streams(rng, together)
        z = ((means[:, 1] - means[:, 0]) / np.sqrt(variances.sum(axis=1)))[:, days]
        fractions = tuple(((days + 1) / DAYS).tolist())
        critical = boundaries_as_data_arrive(fractions, spending=spending)
        rejected.append(first_crossings(z, critical) >= 0)
        naive.append(np.abs(z).max(axis=1) >= FIXED_Z)
    low, high = band(ALPHA, np.concatenate(rejected).size)
    assert low <= np.concatenate(rejected).mean() <= high
    assert np.concatenate(naive).mean() > 4 * ALPHA


@pytest.mark.slow
def test_a_guardrail_at_its_margin_rarely_passes():
    rng = np.random.default_rng(29)
    margin = 0.1
    means, variances = daily_streams(rng, RUNS)
    effect = means[:, 1] - means[:, 0] - margin  # the truth is exactly at the margin
    z = (effect + margin) / np.sqrt(variances.sum(axis=1))
    fractions = tuple((np.arange(1, DAYS + 1) / DAYS).tolist())
    critical = boundaries_as_data_arrive(fractions, sides=1)
    passed = (first_crossings(z, critical, sides=1) >= 0).mean()
    assert passed <= ceiling(ALPHA, RUNS)
    assert passed > ALPHA / 2
    # The planted fault: z_{.95} at every look.
    assert (z.max(axis=1) >= 1.644854).mean() > 0.2


@pytest.mark.slow
def test_family_wise_error_of_two_arms_and_two_metrics():
    rng = np.random.default_rng(30)
    arms, metrics = 2, 2
    streams = [daily_streams(rng, RUNS, arms=1 + arms) for _ in range(metrics)]
    days = np.array([5, 11, 16, 22, 27])
    fractions = tuple(((days + 1) / DAYS).tolist())

    def any_success(alpha):
        critical = boundaries_as_data_arrive(fractions, alpha=alpha)
        won = np.zeros(RUNS, dtype=bool)
        for means, variances in streams:
            for arm in range(1, 1 + arms):
                error = np.sqrt(variances[:, arm] + variances[:, 0])
                z = ((means[:, arm] - means[:, 0]) / error)[:, days]
                won |= first_crossings(z, critical) >= 0
        return won.mean()

    assert any_success(ALPHA / (arms * metrics)) <= band(ALPHA, RUNS)[1]
    # The planted fault: full alpha for each of the four hypotheses.
    assert any_success(ALPHA) > band(ALPHA, RUNS)[1]


@pytest.mark.slow
def test_confidence_sequence_over_its_whole_horizon():
    rng = np.random.default_rng(31)
    means, variances = daily_streams(rng, RUNS)
    differences, errors = means[:, 1] - means[:, 0], np.sqrt(variances.sum(axis=1))
    planned = DAYS * UNITS_PER_DAY / 2
    effect = (FIXED_Z + 0.841621) / math.sqrt(planned)  # what the plan detects with power .8
    days = np.arange(2, DAYS)  # from 120 units per arm on

    def first_day(shift, scale, runs):
        g = tuning_information(planned / scale**2, ALPHA)
        call = {"g": g, "alpha": ALPHA}
        days_found = []
        for estimate, error in zip(differences[:runs] + shift, errors[:runs], strict=True):
            points = (
                day
                for day in days
                if confidence_sequence(scale * estimate[day], scale * error[day], **call).p_value
                < ALPHA
            )
            days_found.append(next(points, None))
        return days_found

    null = first_day(0.0, 1.0, RUNS)
    assert sum(day is not None for day in null) / RUNS <= ceiling(ALPHA, RUNS)
    fixed = (np.abs(differences / errors)[:, days] >= FIXED_Z).any(axis=1).mean()
    assert fixed > band(ALPHA, RUNS)[1]
    few = min(RUNS, 500)
    powered = first_day(3 * effect, 1.0, few)
    assert sum(day is not None for day in powered) / few > 0.99
    # Cents or euros: the same decisions on the same days.
    for shift in (0.0, effect):
        base = first_day(shift, 1.0, few)
        assert first_day(shift, 0.01, few) == base
        assert first_day(shift, 100.0, few) == base


looks_as_they_come = st.lists(
    st.tuples(st.integers(1, 130), st.booleans()), min_size=1, max_size=12
)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    looks_as_they_come,
    st.sampled_from(["obrien_fleming", "pocock", "kim_demets", "hwang_shih_decani"]),
    st.sampled_from([1, 2]),
)
def test_no_interleaving_of_looks_spends_more_than_alpha(events, spending, sides):
    """Early, late, repeated, restated and surplus looks, and a declared end among them."""
    stored, spent = [], 0.0
    for percent, is_declared_end in events:
        t = min(percent / 100, 1.0)
        allowed = cumulative_alpha(spending, t, alpha=ALPHA, sides=sides)
        look = next_boundary(
            stored,
            t=t,
            cumulative_alpha_now=max(ALPHA if is_declared_end else allowed, spent),
            alpha_spent=spent,
            sides=sides,
        )
        assert spent <= look.alpha_spent <= ALPHA
        if look.reason != "INFORMATION_DECREASED":
            stored.append((t, look.critical_value))
        else:
            assert look.alpha_spent == spent
        spent = look.alpha_spent
    fractions, critical_values = zip(*stored, strict=True)
    # What was written down is what the boundaries really use.
    total = crossing_probabilities(fractions, critical_values, sides=sides).total
    assert total == pytest.approx(spent, abs=1e-9)


FIRST_LOOK, BASE_ARRIVALS, GROWTH = 14, 4, 1.1
NET_POINTS = 1024  # an error of c_k of 0.003, or of the size of 0.0003


def open_ended_looks():
    """Who has been seen on which day, shapes (units, looks): per arm, arrivals grow daily."""
    looks = np.arange(FIRST_LOOK, DAYS + 1)
    arrivals = np.round(BASE_ARRIVALS * GROWTH ** np.arange(DAYS)).astype(int)
    entry = np.repeat(np.arange(DAYS), arrivals)
    is_active = np.arange(DAYS) >= entry[:, None]
    days_seen = is_active.cumsum(axis=1)[:, looks - 1]
    return looks, is_active, days_seen


def longitudinal_decision(z, products, fractions):
    """Whether the corrected plan rejects at any look."""
    previous, spent = [], 0.0
    for k, t in enumerate(fractions):
        look = longitudinal_boundary(
            products[: k + 1, : k + 1],
            previous,
            cumulative_alpha_now=cumulative_alpha("obrien_fleming", t, alpha=ALPHA),
            alpha_spent=spent,
            points=NET_POINTS,
        )
        previous.append(look.critical_value)
        spent = look.alpha_spent
        if look.critical_value is not None and abs(z[k]) >= look.critical_value:
            return True
    return False


@pytest.mark.slow
def test_open_ended_means_keep_their_size():
    """Per-user means of noisy daily values: a user of one day is noise, later a good measurement.

    Each look is therefore made by its newest users, and increments are far from independent.
    """
    rng = np.random.default_rng(32)
    looks, is_active, days_seen = open_ended_looks()
    is_seen, n = days_seen > 0, (days_seen > 0).sum(axis=0)
    scheduled = (looks / DAYS).tolist()
    # Daily values have variance 1, so that a user of m days has 1/m.
    variances = (is_seen / np.maximum(days_seen, 1)).sum(axis=0) / n**2
    planned = 1 / (2 * variances)
    faults = {
        "schedule": solve_boundaries(scheduled, alpha=ALPHA).critical_values,
        "information": solve_boundaries(
            (planned / planned[-1]).tolist(), alpha=ALPHA
        ).critical_values,
    }
    units = np.arange(2 * len(is_seen))
    corrected, uncorrected = 0, dict.fromkeys(faults, 0)
    for _ in range(RUNS):
        difference, scores = 0.0, []
        for sign in (-1, 1):
            daily = rng.normal(size=is_active.shape) * is_active
            value = daily.cumsum(axis=1)[:, looks - 1] / np.maximum(days_seen, 1)
            mean = (value * is_seen).sum(axis=0) / n
            difference = difference + sign * mean
            # n/(n − 1): squares of the scores sum to the variance of the arm.
            scores.append(sign * (value - mean) / np.sqrt(n * (n - 1)))
        psi = np.concatenate(scores)
        both = np.concatenate([is_seen, is_seen])
        products = score_products(
            [(units[both[:, k]], psi[both[:, k], k]) for k in range(len(looks))]
        )
        information = 1 / np.diag(products)
        z = difference * np.sqrt(information)
        fractions = [
            spending_fraction(
                information[: k + 1].tolist(),
                planned_information=planned[-1],
                scheduled=scheduled[k],
            )
            for k in range(len(looks))
        ]
        fractions = np.maximum.accumulate([*fractions[:-1], 1.0]).tolist()
        corrected += longitudinal_decision(z, products, fractions)
        for name, critical in faults.items():
            uncorrected[name] += int(first_crossings(z[None], critical)[0] >= 0)
    low, high = band(ALPHA, RUNS)
    assert low <= corrected / RUNS <= high
    # The planted faults: independent increments, by the schedule or by information.
    assert uncorrected["schedule"] / RUNS > 0.12
    assert uncorrected["information"] / RUNS > high


@pytest.mark.alone
def test_ten_thousand_experiments_of_28_looks_take_under_a_second():
    rng = np.random.default_rng(33)
    experiments = 10_000
    n = 1000 * np.arange(1, DAYS + 1)
    noise = rng.normal(size=(2, experiments, DAYS)).cumsum(axis=-1) * math.sqrt(1000)
    means, variances = 5 + noise / n, rng.normal(1.0, 0.01, size=(2, experiments, DAYS))
    fractions = (np.arange(1, DAYS + 1) / DAYS).tolist()
    started = time.perf_counter()
    z = (means[1] - means[0]) / np.sqrt(variances.sum(axis=0) / n)
    critical = solve_boundaries(fractions, alpha=ALPHA).critical_values
    rejected = (first_crossings(z, critical) >= 0).mean()
    assert time.perf_counter() - started < 1
    low, high = band(ALPHA, experiments)
    assert low <= rejected <= high
