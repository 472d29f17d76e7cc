"""Sample-ratio mismatch: do the arms hold the configured shares of the units?

    fixed        χ² = Σ(O − E)²/E against the configured shares (METHODS 5.1)
    sequential   ln E_c = lnΓ(c) − Σ lnΓ(cθ_i) + Σ lnΓ(cθ_i + S_i) − lnΓ(c + n) − Σ S_i ln θ_i,
                 averaged over several concentrations c (METHODS 5.2); anytime p = 1/max E

The e-value judges every look; χ² at a fixed level only the planned end, because repeated daily it
blocks clean experiments. A deviation below 0.1 percentage point never blocks: 20 million units make
it significant, not important. Counts are distinct units; units in several arms are counted apart
(`bias.multi_arm_outcome`).

References:
    Lindon & Malek 2022; Fabijan et al. 2019.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, gammaln, logsumexp

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.records import CheckOutcome, ChiSquare, Severity

CONCENTRATIONS = (1e2, 1e3, 1e4, 1e5)
MIN_DEVIATION = 0.001  # share points below which a mismatch does not block
BLOCK_P, WARN_P = 0.001, 0.01  # fixed test, planned end only
BLOCK_ANYTIME_P, WARN_ANYTIME_P = 0.01, 0.05  # E >= 100 and E >= 20
ROUND_SPLIT = 0.05  # splits people configure are multiples of 5 %
NEAR_SPLIT = 0.005
FAR_SPLIT = 0.01

Vector = NDArray[np.float64]


def chi_square(counts: Sequence[float], shares: Sequence[float]) -> ChiSquare:
    """Test counts against configured shares.

    Args:
        counts: Distinct units per arm.
        shares: Configured share per arm, above 0, summing to 1.

    Raises:
        EstimationError: EMPTY_ARM where there are no units at all.
        ValueError: Fewer than two arms, negative counts, or shares that do not sum to 1.

    Examples:
        >>> round(chi_square([500, 560], [0.5, 0.5]).p_value, 6)
        0.065346
    """
    observed, theta = _validated(counts, shares)
    if (theta == 0).any():
        msg = f"shares {list(shares)} hold a zero; the chi-square test needs positive shares"
        raise ValueError(msg)
    expected = observed.sum() * theta
    statistic = float(np.sum((observed - expected) ** 2 / expected))
    df = len(observed) - 1
    return ChiSquare(
        statistic=statistic, degrees_of_freedom=df, p_value=float(chdtrc(df, statistic))
    )


def sequential_log_e_value(
    counts: Sequence[float],
    shares: Sequence[float],
    *,
    concentrations: Sequence[float] = CONCENTRATIONS,
) -> float:
    """Return ln E of the Dirichlet-multinomial mixture against the configured shares.

    Args:
        counts: Distinct units per arm so far.
        shares: Configured share per arm, summing to 1; an arm of share 0 must have count 0.
        concentrations: Prior weights; the e-value is the mean over them.

    Raises:
        EstimationError: EMPTY_ARM where there are no units at all.
        ValueError: As `chi_square`, or units in an arm of share 0 (evidence without bound).

    Examples:
        >>> round(sequential_log_e_value([500, 560], [0.5, 0.5], concentrations=[100]), 6)
        0.32597
    """
    observed, theta = _validated(counts, shares)
    if observed[theta == 0].any():
        msg = "units in an arm of share 0"
        raise ValueError(msg)
    observed, theta = observed[theta > 0], theta[theta > 0]
    n = observed.sum()
    log_e = [
        gammaln(c) - gammaln(c + n) + np.sum(gammaln(c * theta + observed) - gammaln(c * theta))
        for c in concentrations
    ]
    log_null = float(observed @ np.log(theta))
    return float(logsumexp(log_e)) - math.log(len(log_e)) - log_null


def anytime_p_value(log_e_value: float) -> float:
    """Return min(1, 1/E); pass the largest ln E of all looks."""
    return math.exp(-max(0.0, log_e_value))


def sample_ratio_outcome(
    counts_by_arm: Mapping[str, int],
    shares: Mapping[str, float],
    *,
    at_planned_end: bool,
    largest_earlier_log_e: float = 0.0,
) -> CheckOutcome:
    """Judge the sample ratio at a look.

    Blocks (ERROR) at E ≥ 100 and, at the planned end, χ² p < 0.001, both with a deviation of at
    least 0.1 percentage point; warns at E ≥ 20 and, at the planned end, p < 0.01. Units in an arm
    without a share block at once.

    Args:
        counts_by_arm: Distinct units per arm.
        shares: Configured share per arm, summing to 1.
        at_planned_end: True at the planned end only, where the fixed test counts.
        largest_earlier_log_e: Largest ln E of the earlier looks.

    Returns:
        The check; `value` is the p-value that decides and `threshold` the level it is held against.

    Raises:
        EstimationError: EMPTY_ARM where no arm has units.

    Examples:
        >>> shares = {"control": 0.5, "treatment": 0.5}
        >>> outcome = sample_ratio_outcome(
        ...     {"control": 6000, "treatment": 4000}, shares, at_planned_end=False
        ... )
        >>> outcome.passed, outcome.severity, outcome.message.split("; ")[-1]
        (False, 'ERROR', 'observed ratio is close to 60/40: configuration?')
    """
    arms = list(shares)
    unknown = {arm: n for arm, n in counts_by_arm.items() if n and not shares.get(arm)}
    if unknown:
        found = ", ".join(f"{arm} {n}" for arm, n in unknown.items())
        return _outcome(severity="ERROR", message=f"units in arms without a share: {found}")
    arms = [arm for arm in arms if shares[arm] > 0]
    counts = [float(counts_by_arm.get(arm, 0)) for arm in arms]
    theta = [shares[arm] for arm in arms]
    fixed = chi_square(counts, theta)
    log_e = max(sequential_log_e_value(counts, theta), largest_earlier_log_e)
    deviations = np.asarray(counts) / sum(counts) - theta
    is_large = float(np.abs(deviations).max()) >= MIN_DEVIATION

    tests = [(anytime_p_value(log_e), BLOCK_ANYTIME_P, WARN_ANYTIME_P)]
    if at_planned_end:
        # χ² first where both judge alike: it is the number people know.
        tests.insert(0, (fixed.p_value, BLOCK_P, WARN_P))
    message = _describe(arms, counts, theta, fixed, log_e)
    for p, block, _ in tests:
        if p <= block and is_large:
            hint = _configuration_hint(counts, theta)
            return _outcome(severity="ERROR", value=p, threshold=block, message=message + hint)
    for p, _, warn in tests:
        if p <= warn:
            return _outcome(severity="WARN", value=p, threshold=warn, message=message)
    p, _, warn = tests[0]
    return _outcome(severity="WARN", value=p, threshold=warn, message=message, passed=True)


def _validated(counts: Sequence[float], shares: Sequence[float]) -> tuple[Vector, Vector]:
    observed = np.asarray(counts, dtype=np.float64)
    theta = np.asarray(shares, dtype=np.float64)
    if observed.shape != theta.shape or observed.ndim != 1 or len(observed) < 2:  # noqa: PLR2004
        msg = f"{observed.shape} counts and {theta.shape} shares: need two or more of each"
        raise ValueError(msg)
    if not (np.isfinite(observed).all() and (observed >= 0).all()):
        msg = f"counts {list(counts)} must be finite and not negative"
        raise ValueError(msg)
    if (theta < 0).any() or abs(theta.sum() - 1) > 1e-6:  # noqa: PLR2004
        msg = f"shares {list(shares)} must not be negative and sum to 1"
        raise ValueError(msg)
    if observed.sum() == 0:
        raise EstimationError("EMPTY_ARM", "sample ratio", "no units in any arm")
    return observed, theta / theta.sum()


def _outcome(
    *,
    severity: Severity,
    message: str,
    value: float | None = None,
    threshold: float | None = None,
    passed: bool = False,
) -> CheckOutcome:
    return CheckOutcome(
        name="sample_ratio",
        passed=passed,
        severity=severity,
        value=value,
        threshold=threshold,
        message=message,
    )


def _describe(
    arms: Sequence[str],
    counts: Sequence[float],
    shares: Sequence[float],
    fixed: ChiSquare,
    log_e: float,
) -> str:
    """Observed against expected, both p-values, and the arm that is furthest off."""
    n = sum(counts)
    listed = ", ".join(
        f"{arm} {count:.0f} (share {count / n:.4f}, expected {share:.4f})"
        for arm, count, share in zip(arms, counts, shares, strict=True)
    )
    message = (
        f"observed {listed}; chi-square p = {fixed.p_value:.3g}; "
        f"anytime p = {anytime_p_value(log_e):.3g} (e-value {_power_of_ten(log_e)})"
    )
    if len(arms) > 2:  # noqa: PLR2004
        theta = np.asarray(shares)
        residuals = (np.asarray(counts) - n * theta) / np.sqrt(n * theta * (1 - theta))
        worst = int(np.argmax(np.abs(residuals)))
        message += f"; furthest off: {arms[worst]} ({counts[worst] / n / theta[worst] - 1:+.2%})"
    return message


def _configuration_hint(counts: Sequence[float], shares: Sequence[float]) -> str:
    """Name the round split that the counts are close to, where it is not the configured one."""
    observed = np.asarray(counts) / sum(counts)
    split = ROUND_SPLIT * np.round(observed / ROUND_SPLIT)
    # Sampling moves the observed split: allow 1.5 standard errors, but never to the next split.
    sampling = 1.5 * math.sqrt(0.25 / sum(counts))
    is_near = float(np.abs(observed - split).max()) <= min(max(NEAR_SPLIT, sampling), FAR_SPLIT)
    is_configured = float(np.abs(split - np.asarray(shares)).max()) <= NEAR_SPLIT
    if not is_near or is_configured or abs(float(split.sum()) - 1) > NEAR_SPLIT or not split.all():
        return ""
    name = "/".join(f"{100 * share:.0f}" for share in split)
    return f"; observed ratio is close to {name}: configuration?"


def _power_of_ten(log_e: float) -> str:
    """A readable e-value: plain near 1, a power of ten where it is large or tiny."""
    exponent = log_e / math.log(10)
    return f"{math.exp(log_e):.2g}" if abs(exponent) < 3 else f"10^{exponent:.1f}"  # noqa: PLR2004
