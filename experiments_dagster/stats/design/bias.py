"""Health of the assignment seen through its units: pre-period balance and units in two arms.

METHODS 5.3; faults F-10 and F-12. A difference before the first exposure cannot be an effect.
"""

from __future__ import annotations

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.methods.moments.mean import compare_means
from experiments_dagster.stats.moments import ArmMoments
from experiments_dagster.stats.records import CheckOutcome, Severity

BALANCE_BLOCK_P, BALANCE_WARN_P = 0.001, 0.01
MULTI_ARM_BLOCK, MULTI_ARM_WARN = 0.01, 0.001


def pre_period_balance(
    control: ArmMoments,
    treatment: ArmMoments,
    *,
    column: str,
    arm: str = "treatment",
    n_comparisons: int = 1,
) -> CheckOutcome:
    """Compare a pre-exposure covariate between the arms by Welch's t.

    Args:
        control: Moments of the control arm.
        treatment: Moments of one treatment arm.
        column: The covariate.
        arm: Name of the treatment arm in the message.
        n_comparisons: Covariates and arms tested together; p is multiplied by it (Bonferroni).

    Returns:
        WARN at p < 0.01, ERROR at p < 0.001.

    Raises:
        EstimationError: EMPTY_ARM, N_TOO_SMALL.

    Examples:
        >>> arms = [ArmMoments.from_arrays(x=[1.0, 2.0, 3.0]) for _ in range(2)]
        >>> pre_period_balance(*arms, column="x").passed
        True
    """
    try:
        raw = compare_means(control, treatment, column=column).difference.p_value
        p = min(1.0, n_comparisons * (1.0 if raw is None else raw))
    except EstimationError as error:
        if error.code != "ZERO_VARIANCE":
            raise
        # Two constants: alike is balance, unlike is the clearest imbalance there is.
        p = 1.0 if control.mean(column) == treatment.mean(column) else 0.0
    message = (
        f"pre-period {column}: control {control.mean(column):.6g}, {arm} "
        f"{treatment.mean(column):.6g}, p = {p:.3g}"
    )
    if p < BALANCE_WARN_P:
        message += "; adjust for the pre-period (CUPED) and look for the cause"
    return _graded(
        "pre_period_balance",
        value=p,
        is_block=p < BALANCE_BLOCK_P,
        is_warn=p < BALANCE_WARN_P,
        thresholds=(BALANCE_BLOCK_P, BALANCE_WARN_P),
        message=message,
    )


def multi_arm_outcome(
    n_excluded: int,
    n_total: int,
    *,
    warn_above: float = MULTI_ARM_WARN,
    block_above: float = MULTI_ARM_BLOCK,
) -> CheckOutcome:
    """Judge the share of units seen in more than one arm; they are excluded and counted.

    Args:
        n_excluded: Units seen in more than one arm.
        n_total: All exposed units, the excluded ones included.
        warn_above: Share above which to warn.
        block_above: Share above which to block.

    Raises:
        EstimationError: EMPTY_ARM without units.
        ValueError: Counts that cannot be.

    Examples:
        >>> multi_arm_outcome(5, 1000).severity, multi_arm_outcome(1, 1000).passed
        ('WARN', True)
    """
    if not 0 <= n_excluded <= n_total:
        msg = f"{n_excluded} excluded of {n_total} units"
        raise ValueError(msg)
    if n_total == 0:
        raise EstimationError("EMPTY_ARM", "multi-arm units", "no units")
    share = n_excluded / n_total
    return _graded(
        "multi_arm_units",
        value=share,
        is_block=share > block_above,
        is_warn=share > warn_above,
        thresholds=(block_above, warn_above),
        message=f"{n_excluded} of {n_total} units ({share:.3%}) were seen in more than one arm",
    )


def _graded(
    name: str,
    *,
    value: float,
    is_block: bool,
    is_warn: bool,
    thresholds: tuple[float, float],
    message: str,
) -> CheckOutcome:
    severity: Severity = "ERROR" if is_block else "WARN"
    return CheckOutcome(
        name=name,
        passed=not (is_block or is_warn),
        severity=severity,
        value=value,
        threshold=thresholds[0] if is_block else thresholds[1],
        message=message,
    )
