"""What cannot be estimated: every estimator gives a number that is right, or the reason."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from stats_estimators import ESTIMATORS, mean_cell, numbers_in, pair_cell, units_of

from experiments_dagster.stats import cells
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.equivalence import equivalence
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.methods.moments.non_inferiority import non_inferiority
from experiments_dagster.stats.methods.moments.ratio import compare_ratios
from experiments_dagster.stats.methods.units.clustered import compare_clustered
from experiments_dagster.stats.methods.units.interacted import without_level
from experiments_dagster.stats.methods.units.lin import compare_adjusted
from experiments_dagster.stats.methods.units.post_stratified import compare_post_stratified
from experiments_dagster.stats.methods.units.quantile import compare_quantiles
from experiments_dagster.stats.moments import ArmMoments, mean_difference
from experiments_dagster.stats.sequential.confidence_sequence import confidence_sequence
from experiments_dagster.stats.sequential.longitudinal import score_products

N = 120
OK = "ok"  # a number, finite
COUNTED = {"compare_proportions", "fisher_exact"}  # read zeros and ones, not y
RATIOS = {
    "compare_ratios",
    "linearised_t",
    "compare_ratios_adjusted",
    "augmented_ratio",
    "clustered_ratio_of_totals",
    "bootstrap_ratio",
    "ratio_cells",
}
MOMENT_RATIOS = {"compare_ratios", "linearised_t", "augmented_ratio", "ratio_cells"}
OF_CELLS = {"mean_cells", "ratio_cells", "adjusted_cells"}
WITH_X = {
    "lin_hc2",
    "hc3",
    "lin_superpop",
    "compare_ratios_adjusted",
    "cuped_pooled_theta",
    "cuped_within_theta",
    "ancova_hc1",
    "augmented_mean",
    "augmented_ratio",
    "augmented_quantile",
    "adjusted_cells",
}
QUANTILES = {
    "quantile_outer",
    "quantile_kernel",
    "quantile_of_events",
    "quantile_of_events_kernel",
    "augmented_quantile",
}
# Logs of |y|; the 0.6 quantile of −y is not that of y.
UNMIRRORED = {"compare_log_means", "quantile_of_events_kernel"}
FINITE_NUMBERS = [name for name in ESTIMATORS if name not in COUNTED]


def usual_units(seed=3, n=N):
    rng = np.random.default_rng(seed)
    is_treated = np.arange(n) % 2 == 1
    return units_of(2 + rng.exponential(size=n), is_treated, seed=seed)


def outcome_of(name, units):
    """`ok`, or the code of the refusal; every number of an answer is finite."""
    try:
        reading = ESTIMATORS[name].run(units, 0.05)
    except EstimationError as error:
        return error.code
    for record in reading.records:
        assert all(np.isfinite(number) for _, number in numbers_in(record))
    return OK


def with_values(units, y, **columns):
    return replace(units, y=np.asarray(y), numerator=np.asarray(y), **columns)


@pytest.mark.parametrize("name", list(ESTIMATORS))
@pytest.mark.parametrize("is_treated", [True, False])
def test_an_empty_arm(name, is_treated):
    units = usual_units()
    empty = replace(units, is_treated=np.full(N, is_treated))
    assert outcome_of(name, empty) == "EMPTY_ARM"


@pytest.mark.parametrize("name", list(ESTIMATORS))
@pytest.mark.parametrize("is_swapped", [False, True])
def test_one_unit_in_an_arm(name, is_swapped):
    units = usual_units()
    lone = replace(units, is_treated=np.arange(N) == 1)
    # A binomial variance needs no second unit.
    expected = OK if name in COUNTED else "N_TOO_SMALL"
    assert outcome_of(name, lone.swapped() if is_swapped else lone) == expected


def code_of_constants(name):
    """Where nothing varies: no variance, and no ratio varies either."""
    return OK if name == "fisher_exact" else "ZERO_VARIANCE"


@pytest.mark.parametrize("name", list(ESTIMATORS))
@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e15, 1e120])
def test_all_units_alike(name, value):
    units = usual_units()
    alike = with_values(units, np.full(N, value), bought=np.ones(N))
    alike = replace(alike, numerator=value * units.denominator)
    assert outcome_of(name, alike) == code_of_constants(name)


@pytest.mark.parametrize("name", [n for n in FINITE_NUMBERS if n != "compare_ranks"])
def test_each_arm_constant_at_its_own_value(name):
    units = usual_units()
    level = np.where(units.is_treated, 0.3, 0.1)
    apart = replace(units, y=level, numerator=level * units.denominator)
    # A perfect separation has its place among the assignments, and needs no variance; linearised
    # at the ratio of control, the treated vary.
    expected = OK if name.startswith(("permutation", "linearised")) else "ZERO_VARIANCE"
    assert outcome_of(name, apart) == expected


@pytest.mark.parametrize("name", FINITE_NUMBERS)
def test_one_constant_arm_is_fine(name):
    units = usual_units()
    y = np.where(units.is_treated, units.y, 2.5)
    one = replace(units, y=y, numerator=y * units.denominator)
    # Its weight in the analysis of variance would be infinite.
    expected = {"welch_anova": "ZERO_VARIANCE", "augmented_quantile": "NOT_IDENTIFIED"}
    assert outcome_of(name, one) == expected.get(name, OK)


@pytest.mark.parametrize("name", FINITE_NUMBERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number(name, bad):
    units = usual_units()
    y = units.y.copy()
    y[5] = bad
    assert outcome_of(name, with_values(units, y)) == "NON_FINITE_INPUT"


@pytest.mark.parametrize("name", FINITE_NUMBERS)
def test_values_whose_squares_overflow(name):
    units = usual_units()
    y = units.y.copy()
    y[5] = 1e200
    # Logs are taken of it and tails are cut before anything is squared.
    expected = {"compare_log_means": OK, "compare_trimmed": OK}
    assert outcome_of(name, with_values(units, y)) == expected.get(name, "NON_FINITE_INPUT")


@pytest.mark.parametrize("name", sorted(WITH_X))
def test_a_covariate_that_is_no_number(name):
    units = usual_units()
    x = units.x.copy()
    x[5] = np.nan
    assert outcome_of(name, replace(units, x=x)) == "NON_FINITE_INPUT"


@pytest.mark.parametrize("name", sorted(RATIOS))
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_denominator_that_is_no_number(name, bad):
    units = usual_units()
    denominator = units.denominator.copy()
    denominator[5] = bad
    assert outcome_of(name, replace(units, denominator=denominator)) == "NON_FINITE_INPUT"


@pytest.mark.parametrize("name", sorted(RATIOS))
@pytest.mark.parametrize("arm", [True, False])
def test_a_denominator_of_zero(name, arm):
    units = usual_units()
    denominator = np.where(units.is_treated == arm, 0.0, units.denominator)
    assert outcome_of(name, replace(units, denominator=denominator)) == "ZERO_DENOMINATOR"


@pytest.mark.parametrize("name", sorted(RATIOS))
@pytest.mark.parametrize("arm", [True, False])
def test_negative_denominators(name, arm):
    units = usual_units()
    denominator = np.where(units.is_treated == arm, -units.denominator, units.denominator)
    assert outcome_of(name, replace(units, denominator=denominator)) == "NOT_IDENTIFIED"
    single = units.denominator.copy()
    single[7] = -0.5
    # Moments show the total alone; the frames refuse the single value.
    expected = OK if name in MOMENT_RATIOS else "NOT_IDENTIFIED"
    assert outcome_of(name, replace(units, denominator=single)) == expected


@pytest.mark.parametrize("labels", ["few", "some", "many"])
@pytest.mark.parametrize("clusters", [1, 3])
def test_too_few_clusters_in_an_arm(labels, clusters):
    units = usual_units()
    whole = {"few": 8, "some": 30, "many": 80}[labels]
    label = np.where(units.is_treated, np.arange(N) % clusters, 100 + np.arange(N) % whole)
    for swapped in (units, units.swapped()):
        with pytest.raises(EstimationError, match=f"{clusters} clusters, need 4") as error:
            compare_clustered(swapped.y, swapped.is_treated, label)
        assert error.value.code == "N_TOO_SMALL"
    with pytest.raises(EstimationError) as error:
        compare_quantiles(units.y, units.is_treated, q=0.5, clusters=label)
    assert error.value.code == "N_TOO_SMALL"


def test_clusters_with_rows_in_both_arms():
    units = usual_units()
    with pytest.raises(EstimationError) as error:
        compare_clustered(units.y, units.is_treated, np.arange(N) // 3)
    assert error.value.code == "NOT_IDENTIFIED"


@pytest.mark.parametrize("q", [0.05, 0.5, 0.95])
def test_a_quantile_needs_ten_values_on_each_side(q):
    rng = np.random.default_rng(0)
    need = round(10 / min(q, 1 - q))
    for n, fine in ((need - 1, False), (need, True)):
        is_treated = np.arange(n + 400) >= n
        y = rng.normal(size=n + 400)
        try:
            compare_quantiles(y, is_treated, q=q)
            assert fine
        except EstimationError as error:
            code = error.code  # also where the outer quantiles leave the data
        else:
            code = OK
        assert code in ({OK, "N_TOO_SMALL"} if fine else {"N_TOO_SMALL"})


@pytest.mark.parametrize("name", sorted(QUANTILES))
def test_a_quantile_of_few_units_is_refused_through_every_door(name):
    assert outcome_of(name, usual_units(n=36)) == "N_TOO_SMALL"


def test_all_units_in_one_stratum_are_welch():
    units = usual_units()
    welch = compare_means(*units.arms("y")).difference
    for strata in (np.full(N, "a"), np.full(N, None), np.zeros(N)):
        one = compare_post_stratified(units.y, units.is_treated, strata)
        assert one.n_strata == 1
        result = one.contrast.difference
        assert result.estimate == pytest.approx(welch.estimate, rel=1e-12)
        assert result.std_error == pytest.approx(welch.std_error, rel=1e-12)
        assert result.degrees_of_freedom == pytest.approx(welch.degrees_of_freedom, rel=1e-9)


def test_strata_of_one_arm_each_are_merged():
    units = usual_units()
    apart = compare_post_stratified(units.y, units.is_treated, units.is_treated.astype(int))
    assert apart.strata == (("0", "1"),)


@pytest.mark.parametrize("name", sorted(set(FINITE_NUMBERS) - UNMIRRORED))
def test_the_lift_over_a_negative_control_mean_is_over_its_size_and_flagged(name):
    units = usual_units()
    lift = ESTIMATORS[name].run(units, 0.05).lift
    minus = replace(units, y=-units.y, numerator=-units.numerator)
    if name.endswith("_relative"):
        assert outcome_of(name, minus) == "NOT_IDENTIFIED"
        return
    mirrored = ESTIMATORS[name].run(minus, 0.05).lift
    assert (lift is None) == (mirrored is None)
    if lift is None:
        return
    assert mirrored.estimate == pytest.approx(-lift.estimate, rel=1e-9)
    assert mirrored.ci_low == pytest.approx(-lift.ci_high, rel=1e-9, abs=1e-12)
    assert mirrored.p_value == pytest.approx(lift.p_value, rel=1e-9)
    if not name.startswith("bootstrap"):  # draws of |m_C|, whose interval bears its own name
        assert mirrored.variance_formula == f"{lift.variance_formula}_negative_control"


@pytest.mark.parametrize("name", sorted(set(FINITE_NUMBERS) - RATIOS - QUANTILES - OF_CELLS))
def test_a_control_mean_of_zero_has_no_lift_but_a_difference(name):
    units = usual_units()
    y = np.where(units.is_treated, units.y, np.where(np.arange(N) % 4 < 2, 1.0, -1.0))
    zero = with_values(units, y)
    if name == "compare_log_means":
        assert outcome_of(name, zero) == OK
        return
    if name.endswith("_relative"):
        assert outcome_of(name, zero) == "ZERO_DENOMINATOR"
        return
    reading = ESTIMATORS[name].run(zero, 0.05)
    assert reading.lift is None
    assert reading.p_value is not None


@pytest.mark.parametrize("control_mean", [0.0, -1.0])
def test_a_relative_margin_needs_a_positive_control_mean(control_mean, arm):
    y = np.array([-1.0, 1.0, 2.0, -2.0] * 10) + control_mean
    contrast = compare_means(arm(y), arm(y + 0.1))
    code = "ZERO_DENOMINATOR" if control_mean == 0 else "NOT_IDENTIFIED"
    for test in (
        lambda **margin: equivalence(contrast, **margin),
        lambda **margin: non_inferiority(contrast, higher_is_better=True, **margin),
    ):
        with pytest.raises(EstimationError) as error:
            test(margin=0.1)
        assert error.value.code == code
        assert test(margin=0.1, relative=False).p_value > 0


def exact_moments(values):
    """Mean and sample variance as fractions."""
    exact = [Fraction(float(value)) for value in values]
    mean = sum(exact) / len(exact)
    return mean, sum((value - mean) ** 2 for value in exact) / (len(exact) - 1)


def offset_units(offset, spread):
    """Values on the grid of 1/8, which doubles at 1e15 hold exactly."""
    rng = np.random.default_rng(5)
    is_treated = np.arange(N) % 2 == 1
    y = np.round(rng.normal(size=N) * spread * 8 + 2.4 * spread * is_treated) / 8
    return units_of(y, is_treated, seed=1).shifted(offset)


@pytest.mark.parametrize("offset", [1e9, 1e12, 1e15])
@pytest.mark.parametrize("spread", [10, 1])
def test_means_at_a_large_offset_are_those_of_fractions(offset, spread):
    units = offset_units(offset, spread)
    (mean_c, variance_c), (mean_t, variance_t) = (
        exact_moments(units.y[rows]) for rows in (~units.is_treated, units.is_treated)
    )
    exact = float(mean_t - mean_c)
    exact_error = float(variance_c / 60 + variance_t / 60) ** 0.5
    if spread == 1 and offset == 1e15:
        # sd/|mean| of 1e-15: as constant as a rounded constant is.
        assert outcome_of("compare_means", units) == "ZERO_VARIANCE"
        return
    result = compare_means(*units.arms("y")).difference
    assert result.estimate == pytest.approx(exact, rel=1e-12)
    assert result.std_error == pytest.approx(exact_error, rel=1e-12)
    assert result.control_mean == float(mean_c)
    assert mean_difference(*units.arms("y"), "y") == result.estimate


# Their input is a mean rounded at 1e15, to 1/16, or the product of an offset and a denominator.
ROUNDED_INPUT = {"mean_cells", "adjusted_cells"}


@pytest.mark.parametrize("name", [n for n in FINITE_NUMBERS if "shift" not in ESTIMATORS[n].exempt])
@pytest.mark.parametrize("spread", [10, 1])
@pytest.mark.parametrize("offset", [1e9, 1e15, -1e15])
def test_a_large_offset_gives_the_right_number_or_a_reason(name, offset, spread):
    units = offset_units(0.0, spread)
    moved = replace(units, y=units.y + offset)
    moved = replace(moved, numerator=moved.y)
    if name in RATIOS:
        # Denominators of one: the ratio is the mean, which the offset moves.
        ones = np.ones(N)
        units = replace(units, numerator=units.y, denominator=ones)
        moved = replace(moved, denominator=ones)
    code = outcome_of(name, units)
    if code != OK:
        assert outcome_of(name, moved) == code
        return
    if outcome_of(name, moved) == "ZERO_VARIANCE":
        assert spread == 1
        assert abs(offset) == 1e15
        return
    base, reading = (ESTIMATORS[name].run(data, 0.05) for data in (units, moved))
    # Where means are the input: half a unit in the last place of each.
    slack = abs(offset) * 2.0**-52 if name in ROUNDED_INPUT | MOMENT_RATIOS else 0.0
    if base.effect is not None:
        assert reading.effect == pytest.approx(base.effect, rel=1e-9, abs=slack + 1e-12)
    if base.std_error is not None:
        assert reading.std_error == pytest.approx(base.std_error, rel=1e-9)
    assert (reading.p_value is None) == (base.p_value is None)
    if base.p_value is not None and not slack:
        assert reading.p_value == pytest.approx(base.p_value, rel=1e-8)


def test_a_level_is_taken_off_without_rounding_or_not_at_all():
    values = np.array([1e15 + 0.125, 1e15, 1.9e15])
    rest, level = without_level(values)
    exact = [Fraction(value) - Fraction(level) for value in values.tolist()]
    assert [Fraction(value) for value in rest.tolist()] == exact
    for spread in ([1.0, 3.0], [-1.0, 2.0], [0.0, 1e-300], [0.0, 0.0]):
        unchanged, level = without_level(np.array(spread))
        assert level == 0
        assert unchanged.tolist() == spread
    assert without_level(np.array([-4.0, -3.0]))[1] == -3.0


def test_a_constant_of_any_size_has_no_variance_and_overflow_is_refused():
    for size in (1e-300, 1.0, 1e160, 1e200, 1e300):
        assert ArmMoments.from_arrays(y=np.full(7, 0.1 * size)).variance("y") == 0
    # A spread beside a mean whose square is no number is refused or kept, never called constant.
    arm = ArmMoments(n=9, columns=("y",), means=np.array([1e165]), cross=np.array([[1e304]]))
    assert arm.variance("y") > 0
    pair = ArmMoments.from_arrays(a=np.arange(9.0) * 1e150, b=np.arange(9.0) ** 2)
    with pytest.raises(EstimationError) as error:
        pair.combine({"a": 1.0, "b": 1e160}, name="c")
    assert error.value.code == "NON_FINITE_INPUT"


def test_a_draw_of_zero_counts_on_both_sides_whatever_its_rounding():
    """Whole numbers give draws that are zero on paper: p must not follow their rounding."""
    rng = np.random.default_rng(2)
    units = units_of(rng.poisson(3.0, N).astype(float), np.arange(N) % 2 == 1)
    base = ESTIMATORS["bootstrap_percentile"].run(units, 0.05)
    for k in (0.1, 3.0, 1e-7):
        scaled = ESTIMATORS["bootstrap_percentile"].run(units.scaled(k), 0.05)
        assert scaled.p_value == base.p_value
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(N)
        assert (
            ESTIMATORS["bootstrap_percentile"].run(units.taken(order), 0.05).p_value == base.p_value
        )


def test_the_correlation_shown_is_scale_free():
    units = usual_units()
    base = compare_adjusted(units.y, units.is_treated, units.x[:, None], names=["x"])
    for k in (1e-150, 1e120):
        scaled = compare_adjusted(units.y * k, units.is_treated, units.x[:, None] * k, names=["x"])
        assert scaled.correlation == pytest.approx(base.correlation, rel=1e-9)


@pytest.mark.parametrize(
    "bad",
    ["empty", "one", "constant", "nan", "infinite", "zero_denominator", "negative_denominator"],
)
def test_a_cell_has_the_code_that_the_scalar_function_raises(bad):
    """Beside a fine cell, which keeps its numbers."""
    units = usual_units()
    broken = {
        "empty": replace(units, is_treated=np.zeros(N, dtype=bool)),
        "one": replace(units, is_treated=np.arange(N) == 0),
        "constant": with_values(units, np.full(N, 2.0), denominator=np.full(N, 3.0)),
        "zero_denominator": replace(units, denominator=np.where(units.is_treated, 0.0, 1.0)),
        "negative_denominator": replace(units, denominator=-units.denominator),
        "nan": units,
        "infinite": units,
    }[bad]
    spoil = {"nan": np.nan, "infinite": np.inf}.get(bad)
    families = [("y", mean_cell, cells.compare_mean_cells, compare_means)]
    ratio = (("numerator", "denominator"), pair_cell, cells.compare_ratio_cells, compare_ratios)
    families = [ratio] if "denominator" in bad else [*families, ratio]
    for names, cell_of, compare, scalar in families:
        columns = (names,) if isinstance(names, str) else names
        arms = broken.arms(*columns)
        pair = [
            _beside(cell_of(fine), cell_of(arm), spoil)
            for fine, arm in zip(units.arms(*columns), arms, strict=True)
        ]
        result = compare(*pair)
        expected = "NON_FINITE_INPUT"
        if spoil is None:
            with pytest.raises(EstimationError) as error:
                scalar(*arms)
            expected = error.value.code
        assert result.difference.reason.tolist() == ["", expected]
        assert result.relative.reason[1] == expected
        for column in ("estimate", "std_error", "ci_low", "ci_high", "p_value"):
            numbers = getattr(result.difference, column)
            assert np.isfinite(numbers[0])
            assert np.isnan(numbers[1])


def _beside(fine, broken, spoil):
    """Two cells in one array; `spoil` replaces the mean of the second."""
    columns = {
        name: np.concatenate([getattr(fine, name), getattr(broken, name)])
        for name in type(fine).__dataclass_fields__
    }
    if spoil is not None:
        columns["mean"] = np.array([columns["mean"][0], spoil])
    return type(fine)(**columns)


def test_sequences_and_scores_refuse_what_has_no_variance_or_is_counted_twice():
    with pytest.raises(EstimationError) as error:
        confidence_sequence(1.0, 0.0, g=1.0, alpha=0.05)
    assert error.value.code == "ZERO_VARIANCE"
    with pytest.raises(EstimationError) as error:
        score_products([(["a", "b"], [1.0, np.nan])])
    assert error.value.code == "NON_FINITE_INPUT"
    with pytest.raises(ValueError, match="2 rows of 1 units"):
        score_products([(["a", "a"], [1.0, -1.0])])
