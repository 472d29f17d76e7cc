"""P(best) and expected losses: exact arithmetic, closed forms, both sizes of data, deep tails."""

import itertools
import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.special import erfc

from experiments_dagster.stats.bayesian import beta_tails
from experiments_dagster.stats.bayesian.best_arm import best_arm, compare_arms
from experiments_dagster.stats.bayesian.beta_tails import log_density, log_tails
from experiments_dagster.stats.bayesian.normal import log_unit_loss
from experiments_dagster.stats.bayesian.posteriors import (
    BetaPosterior,
    NormalPosterior,
    StudentPosterior,
)
from experiments_dagster.stats.errors import EstimationError

# The quadrature stops at 1e-11 of each integral.
QUADRATURE = 1e-9


def beta(a, b):
    return BetaPosterior(a=a, b=b)


def exact_probability(a, b):
    """P(A > B) of integer beta posteriors: the closed sum of positive terms, in 100 digits."""
    (a1, b1), (a2, b2) = a, b

    def beta_function(p, q):
        # Γ(p)Γ(q)/Γ(p + q) one factor at a time: big integers are slow to divide.
        value = 1 / Decimal(q)
        for j in range(1, p):
            value = value * j / (q + j)
        return value

    term = beta_function(a2, b1 + b2) / (b1 * beta_function(1, b1) * beta_function(a2, b2))
    total = Decimal(0)
    for i in range(a1):
        total += term
        term = term * (a2 + i) * (b1 + i) / ((a2 + i + b1 + b2) * Decimal(i + 1))
    return total


def exact_loss(a, b):
    """E[(A − B)⁺]: mean times probability with one more success, 100 digits against cancelling."""
    (a1, b1), (a2, b2) = a, b
    return Decimal(a1) / (a1 + b1) * exact_probability((a1 + 1, b1), b) - Decimal(a2) / (
        a2 + b2
    ) * exact_probability(a, (a2 + 1, b2))


# The third is a 20,000-user case, the last has losses below 1e-200.
PAIRS = [
    ((101, 901), (121, 881)),
    ((1, 1), (3, 2)),
    ((2263, 19045), (3895, 17414)),
    ((2000, 18001), (2100, 17901)),
    ((1000, 9000), (2800, 7200)),
]


@pytest.mark.parametrize(("worse", "better"), PAIRS)
def test_rates_agree_with_exact_arithmetic(worse, better):
    with localcontext() as context:
        context.prec = 100
        probability, loss = exact_probability(worse, better), exact_loss(worse, better)
        gain = exact_loss(better, worse)
    found = best_arm([beta(*worse), beta(*better)])
    assert found.probabilities[0] == pytest.approx(float(probability), rel=QUADRATURE)
    assert found.expected_losses[1] == pytest.approx(float(loss), rel=QUADRATURE)
    assert found.expected_losses[0] == pytest.approx(float(gain), rel=QUADRATURE)


def test_the_usual_difference_of_expectations_has_no_digit_left_there():
    """The broken twin: E[max] − E[chosen] in doubles, on the 20,000-user case."""
    worse, better = (beta(*counts) for counts in PAIRS[2])
    rng = np.random.default_rng(1)
    a, b = worse.draw(rng, 100_000), better.draw(rng, 100_000)
    by_difference = np.maximum(a, b).mean() - b.mean()
    loss = compare_arms(worse, better).loss_treatment
    assert by_difference == 0
    assert 3.2e-117 < loss < 3.3e-117


@pytest.mark.parametrize("lift", [0.0, 0.0001, 0.0003])
def test_ten_million_users_per_arm(lift):
    n, rate = 10_000_000, 0.1
    control = beta(1 + rate * n, 1 + (1 - rate) * n)
    treatment = beta(1 + (rate + lift) * n, 1 + (1 - rate - lift) * n)
    found = compare_arms(control, treatment)
    sd = math.sqrt(2 * rate * (1 - rate) / n)
    # A trapezoid over ±12 sd has no error but that of the library's own density.
    x = np.linspace(rate - 12 * sd, rate + lift + 12 * sd, 20_001)
    density = stats.beta.pdf(x, treatment.a, treatment.b)
    below = stats.beta.cdf(x, control.a, control.b)
    above = stats.beta.sf(x, control.a, control.b)
    by_hand = integrate.trapezoid(density * below, x)
    loss = integrate.trapezoid(stats.beta.cdf(x, treatment.a, treatment.b) * above, x)
    # scipy's log density loses 1e-9 at these sizes.
    assert found.probability == pytest.approx(by_hand, rel=1e-7)
    assert found.loss_treatment == pytest.approx(loss, rel=1e-7)


@pytest.mark.parametrize("distance", [0.0, 3.0, 20.0, 35.0])
def test_normal_arms_agree_with_their_difference(distance):
    """θ_A − θ_B is normal: its tail and its loss have closed forms down to 1e-250."""
    first, second = NormalPosterior(mean=2.0, sd=0.3), NormalPosterior(mean=2.0, sd=0.4)
    sd = math.hypot(first.sd, second.sd)
    second = NormalPosterior(mean=2.0 + distance * sd, sd=0.4)
    found = best_arm([first, second])
    tail = erfc(distance / math.sqrt(2)) / 2
    assert found.probabilities[0] == pytest.approx(tail, rel=QUADRATURE)
    log_loss = math.log(sd) + log_unit_loss(distance)
    assert found.log_expected_losses[1] == pytest.approx(log_loss, abs=QUADRATURE)


@pytest.mark.parametrize("z", [-5.0, -0.3, 0.0, 0.5, 4.0, 11.99, 12.0, 30.0])
def test_the_loss_of_a_normal_is_the_integral_of_its_tail(z):
    def tail(t):
        return float(erfc((z + t) / math.sqrt(2)) / 2)

    end = 12.0 + max(0.0, -z)
    by_hand, _ = integrate.quad(tail, 0, 1 if z > 5 else end, epsabs=0, epsrel=1e-11, limit=200)
    # 1e-10: what the difference leaves of doubles where the series takes over.
    assert math.exp(log_unit_loss(z)) == pytest.approx(by_hand, rel=1e-10)


@pytest.mark.parametrize(("df", "other"), [(2.0, 2.0), (3.0, 50.0), (30.0, 400.0), (1e7, 1e6)])
def test_student_arms_agree_with_scipy(df, other):
    arms = [
        StudentPosterior(mean=0.0, scale=1.0, df=df),
        StudentPosterior(mean=1.5, scale=0.7, df=other),
    ]
    laws = [stats.t(arm.df, arm.mean, arm.scale) for arm in arms]
    found = best_arm(arms)

    def cut(function):
        parts = itertools.pairwise([-np.inf, -60.0, -5.0, 0.0, 1.5, 7.0, 60.0, np.inf])
        return sum(integrate.quad(function, low, high, epsabs=1e-13)[0] for low, high in parts)

    best = cut(lambda x: laws[0].pdf(x) * laws[1].cdf(x))
    loss = cut(lambda x: laws[1].cdf(x) * laws[0].sf(x))
    # The integrals by quad, 1e-13 per piece, and scipy's t at 1e7 degrees of freedom.
    assert found.probabilities[0] == pytest.approx(best, rel=1e-7)
    assert found.expected_losses[1] == pytest.approx(loss, rel=1e-7)


def test_a_large_df_is_normal():
    students = [StudentPosterior(mean=m, scale=1.0, df=1e12) for m in (0.0, 8.0)]
    normals = [NormalPosterior(mean=m, sd=1.0) for m in (0.0, 8.0)]
    by_t, by_normal = best_arm(students), best_arm(normals)
    # Relative difference of the densities: z⁴/4df.
    assert by_t.log_expected_losses == pytest.approx(by_normal.log_expected_losses, abs=1e-8)


@pytest.mark.parametrize("scale", [1e-10, 1e-12, 1e-14, 1e-17])
@pytest.mark.parametrize("place", [0.0, 1.0, 3.0, -1e6])
def test_scales_that_differ_beyond_what_a_double_can_place(scale, place):
    """Beside an arm that is all but known, the other is better by its own tail alone."""
    wide = NormalPosterior(mean=place + 1, sd=1.0)
    for narrow in (
        NormalPosterior(mean=place, sd=scale),
        StudentPosterior(mean=place, scale=scale, df=9),
    ):
        found = best_arm([narrow, wide])
        # Up to the tail of the narrow arm, whose scale is 1e-10 at most.
        assert found.probabilities[1] == pytest.approx(stats.norm.cdf(1.0), abs=1e-9)
        loss = stats.norm.pdf(1.0) - stats.norm.sf(1.0)
        assert found.expected_losses[1] == pytest.approx(loss, abs=1e-9)


def test_losses_of_many_arms_agree_with_draws():
    arms = [beta(20 + 3 * k, 180 - k) for k in range(6)]
    found = best_arm(arms)
    rng, size = np.random.default_rng(5), 400_000
    draws = np.stack([arm.draw(rng, size) for arm in arms])
    for k in range(6):
        share = (draws.argmax(axis=0) == k).mean()
        error = math.sqrt(share * (1 - share) / size)
        assert abs(found.probabilities[k] - share) < 4 * error + 1e-6
        loss = draws.max(axis=0) - draws[k]
        assert abs(found.expected_losses[k] - loss.mean()) < 4 * loss.std() / math.sqrt(size)


def test_differences_of_losses_are_differences_of_means():
    arms = [beta(30, 70), beta(35, 65), beta(10, 90), beta(0.5, 0.5)]
    losses = best_arm(arms).expected_losses
    for one, other in itertools.pairwise(range(4)):
        gap = arms[other].mean - arms[one].mean
        assert losses[one] - losses[other] == pytest.approx(gap, abs=1e-9)


POSITIVE = st.floats(0.3, 1e7)
FEW = settings(max_examples=30)


@FEW
@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=2, max_size=5))
def test_probabilities_sum_to_one_whatever_the_arms(counts):
    found = best_arm([beta(a, b) for a, b in counts])
    assert sum(found.probabilities) == pytest.approx(1, abs=1e-6)
    assert all(0 <= p <= 1 for p in found.probabilities)
    assert all(math.isfinite(log) for log in found.log_expected_losses)


@FEW
@given(
    st.lists(
        st.tuples(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.floats(2, 1e7)),
        min_size=2,
        max_size=4,
    )
)
def test_student_probabilities_sum_to_one_whatever_the_arms(arms):
    found = best_arm([StudentPosterior(mean=m, scale=s, df=df) for m, s, df in arms])
    assert sum(found.probabilities) == pytest.approx(1, abs=1e-6)


@FEW
@given(POSITIVE, POSITIVE, POSITIVE, POSITIVE)
def test_swapping_arms_and_outcomes_swaps_the_answer(a, b, c, d):
    one = compare_arms(beta(a, b), beta(c, d))
    swapped = compare_arms(beta(c, d), beta(a, b))
    mirrored = compare_arms(beta(b, a), beta(d, c))
    # Below the smallest double a logarithm is good to 1e-3.
    room = {"abs": 1e-8} if one.log_loss_treatment > -690 else {"rel": 1e-3}
    assert one.log_loss_treatment == pytest.approx(swapped.log_loss_control, **room)
    assert one.log_loss_treatment == pytest.approx(mirrored.log_loss_control, **room)
    assert one.probability == pytest.approx(1 - swapped.probability, abs=1e-9)


def test_scaling_means_scales_losses_only():
    arms = [StudentPosterior(mean=1.0, scale=0.4, df=9.0), NormalPosterior(mean=1.3, sd=0.2)]
    scaled = [
        StudentPosterior(mean=1e6, scale=4e5, df=9.0),
        NormalPosterior(mean=1.3e6, sd=2e5),
    ]
    small, large = best_arm(arms), best_arm(scaled)
    assert small.probabilities == pytest.approx(large.probabilities, rel=1e-9)
    losses = [loss * 1e6 for loss in small.expected_losses]
    assert losses == pytest.approx(large.expected_losses, rel=1e-9)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (1, 1e6), (300, 2), (2e4, 1.8e5), (1e6, 9e6)])
def test_density_and_tails_are_those_of_the_beta_distribution(a, b):
    law = stats.beta(a, b)
    x = law.ppf([1e-9, 0.01, 0.3, 0.5, 0.9, 1 - 1e-9])
    x = x[(x > 0) & (x < 1)]
    y = np.log(x) - np.log1p(-x)
    below, above = log_tails(y, a, b)
    # The point itself is known to 1e-16/(1 − x), and scipy's log density to 1e-9.
    assert np.exp(below) == pytest.approx(law.cdf(x), rel=1e-6)
    assert np.exp(above) == pytest.approx(law.sf(x), rel=1e-6)
    assert log_density(y, a, b) == pytest.approx(law.logpdf(x) + np.log(x * (1 - x)), abs=1e-6)


@pytest.mark.parametrize(("a", "b"), [(2e4, 1.8e5), (3.0, 5e6), (50.0, 50.0), (1e6, 9e6)])
def test_the_fraction_joins_the_library_where_that_underflows(a, b, monkeypatch):
    spread = max(math.sqrt(1 / a + 1 / b), 20 / a)
    y = math.log(a / b) - spread * np.linspace(12, 34, 200)
    library, _ = log_tails(y, a, b)
    monkeypatch.setattr(beta_tails, "SMALLEST", 1e-60)
    fraction, _ = log_tails(y, a, b)
    both = (library > -600) & (library < -140)
    assert both.sum() > 20
    # What a logarithm of 600 leaves of doubles, and the library's own 1e-13.
    assert fraction[both] == pytest.approx(library[both], abs=1e-10)
    assert np.isfinite(fraction).all()


def test_intervals_leave_half_of_alpha_on_each_side():
    for arm, law in (
        (beta(31, 71), stats.beta(31, 71)),
        (NormalPosterior(mean=1.0, sd=2.0), stats.norm(1, 2)),
        (StudentPosterior(mean=1.0, scale=2.0, df=5.0), stats.t(5, 1, 2)),
    ):
        low, high = arm.interval(0.1)
        assert law.cdf(low) == pytest.approx(0.05, rel=1e-9)
        assert law.sf(high) == pytest.approx(0.05, rel=1e-9)


def test_what_is_refused():
    with pytest.raises(ValueError, match="need 2 or more of one kind"):
        best_arm([beta(1, 1)])
    with pytest.raises(ValueError, match="of one kind"):
        best_arm([beta(1, 1), NormalPosterior(mean=0.0, sd=1.0)])
    with pytest.raises(ValueError, match="above 0"):
        beta(0, 1)
    with pytest.raises(ValueError, match="2 or more"):
        StudentPosterior(mean=0.0, scale=1.0, df=1.0)
    with pytest.raises(ValueError, match="above 0"):
        NormalPosterior(mean=0.0, sd=-1.0)
    for code, make in (
        ("ZERO_VARIANCE", lambda: NormalPosterior(mean=0.0, sd=0.0)),
        ("NON_FINITE_INPUT", lambda: beta(math.nan, 1)),
        ("NON_FINITE_INPUT", lambda: StudentPosterior(mean=math.inf, scale=1.0, df=3.0)),
    ):
        with pytest.raises(EstimationError) as caught:
            make()
        assert caught.value.code == code
