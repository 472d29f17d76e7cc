"""One treated unit against a mix of units that never are: classic, synthetic DiD, augmented.

Two refutations come before any estimate: donors that are treated themselves, and predictors that
read what the intervention can change. Both are faults of the design, not of the data.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from experiments_dagster.causal.outcomes import refutation_level
from experiments_dagster.causal.series.augmented_control import (
    AugmentedControlResult,
)
from experiments_dagster.causal.series.donor_checks import (
    check_placebo_in_time,
    check_placebo_lean,
    check_placebo_rank,
    check_pre_fit,
    check_sensitivity,
)
from experiments_dagster.causal.series.donor_panel import DonorPanel
from experiments_dagster.causal.series.donor_placebo import SpacePlacebo, placebo_in_space
from experiments_dagster.causal.series.donor_sensitivity import (
    Sensitivity,
    drop_last_pre_steps,
    leave_one_donor_out,
    leave_one_predictor_out,
)
from experiments_dagster.causal.series.donor_time_placebo import (
    donor_placebo_in_time,
)
from experiments_dagster.causal.series.records import PlaceboResult
from experiments_dagster.causal.series.series_checks import check_bias_alarm
from experiments_dagster.causal.series.synthetic_control import (
    POOR_FIT_SD,
    SyntheticControlResult,
)
from experiments_dagster.causal.series.synthetic_did import (
    SyntheticDidResult,
)
from experiments_dagster.config.intervention import SyntheticControlDesign
from experiments_dagster.interventions.designs.donor_task import (
    ASSUMPTIONS,
    METHODS,
    DonorFindings,
    DonorTask,
    Result,
    weights_of,
)
from experiments_dagster.interventions.designs.donor_views import (
    SHOWN_WEIGHT,
    donor_pictures,
    donor_tables,
)
from experiments_dagster.interventions.designs.panel_parts import check_rows
from experiments_dagster.interventions.study import (
    Refutations,
    Study,
    StudyEstimate,
)
from experiments_dagster.interventions.study_data import Panel
from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.records import CheckOutcome

DROPPED_LAST = (1, 2, 3)
N_TIME_PLACEBOS = 20


def donor_study(panel: Panel, design: SyntheticControlDesign) -> Study:
    """Estimate and try to refute what happened to the treated unit.

    Args:
        panel: Units by periods; those treated first together are the treated.
        design: Method, donors, predictors.

    Raises:
        ValueError: A unit with two rows in a period, or a donor or a predictor's period that the
            panel does not have.
    """
    check_rows(panel)
    task = DonorTask(panel, design)
    refutations = Refutations()
    refutations.ran += [task.check_donors(), task.check_leak()]
    if not all(check.passed for check in refutations.ran):
        failed = next(check for check in refutations.ran if not check.passed)
        return task.not_estimable("NOT_IDENTIFIED", failed.message, refutations)
    try:
        donor_panel = task.donor_panel
        result = task.estimate(donor_panel)
    except EstimationError as error:
        return task.not_estimable(error.code, str(error), refutations)
    found = _refute(task, donor_panel, result, refutations)
    return Study(
        design=design.kind,
        method=METHODS[design.method],
        estimand=task.estimand,
        facts=task.facts(),
        assumptions=ASSUMPTIONS,
        estimates=_estimates(result, found.space),
        refutations=tuple(refutations.ran),
        skipped=tuple(refutations.skipped),
        tables=donor_tables(task, donor_panel, result, found),
        pictures=donor_pictures(task, donor_panel, result, found.space),
        warnings=(*task.warnings, *getattr(result, "warnings", ())),
    )


def _refute(
    task: DonorTask, panel: DonorPanel, result: Result, refutations: Refutations
) -> DonorFindings:
    """Everything that could speak against the estimate."""
    space: SpacePlacebo | None = None
    time: PlaceboResult | None = None
    sensitivities: list[Sensitivity] = []
    refutations.ran.append(_check_fit(panel, result))
    try:
        space = placebo_in_space(
            panel,
            task.effect_of,
            max_fit_ratio=task.design.max_fit_ratio,
            alpha=task.design.alpha,
        )
        refutations.ran += [check_placebo_rank(space), check_placebo_lean(space)]
    except (EstimationError, ValueError) as error:
        refutations.skip("placebo_in_space", str(error))
    try:
        time = donor_placebo_in_time(panel, task.effect_of, n_placebos=N_TIME_PLACEBOS)
        refutations.ran += [
            check_placebo_in_time(time, alpha=refutation_level(1 - task.design.alpha)),
            check_bias_alarm(time),
        ]
    except EstimationError as error:
        # A short history has no room for it; the placebo in space then stands alone.
        refutations.skip("placebo_in_time", str(error), needed=space is None)
    used = panel.donors[np.abs(weights_of(result)) > SHOWN_WEIGHT].tolist()
    runs = {
        "leave_out_donor": partial(leave_one_donor_out, panel, task.effect_of, donors=used),
        "leave_out_last_pre_steps": partial(
            drop_last_pre_steps, panel, task.effect_of, n_dropped=DROPPED_LAST
        ),
    }
    if task.predictors:
        runs["leave_out_predictor"] = partial(
            leave_one_predictor_out, panel, task.predictors, task.effect_given
        )
    for name, run in runs.items():
        try:
            sensitivity = run()
        except EstimationError as error:
            refutations.skip(name, str(error))
            continue
        sensitivities.append(sensitivity)
        refutations.ran.append(check_sensitivity(sensitivity))
    return DonorFindings(space=space, time=time, sensitivities=tuple(sensitivities))


def _check_fit(panel: DonorPanel, result: Result) -> CheckOutcome:
    if isinstance(result, SyntheticControlResult):
        return check_pre_fit(result)
    spread = float(panel.treated_path[: panel.n_pre].std(ddof=1))
    share = result.pre_rmspe / spread if spread else None
    passed = share is not None and share <= POOR_FIT_SD
    shown = "no variation before" if share is None else f"{share:.2f} sd"
    return CheckOutcome(
        name="pre_fit",
        passed=passed,
        severity="WARN",
        value=share,
        threshold=POOR_FIT_SD,
        message=f"pre-period error {result.pre_rmspe:.4g}, {shown} of the treated outcome",
    )


def _estimates(result: Result, space: SpacePlacebo | None) -> tuple[StudyEstimate, ...]:
    """The average difference, with the interval of its method."""
    name = "average per period"
    if isinstance(result, SyntheticDidResult):
        return (
            StudyEstimate(
                name=name,
                method=f"synthetic DiD, {result.error_method} standard error",
                estimate=result.estimate,
                std_error=result.std_error,
                ci_low=result.ci_low,
                ci_high=result.ci_high,
                confidence_level=result.confidence_level,
                p_value=result.p_value,
                reason=result.error_reason,
            ),
        )
    if isinstance(result, AugmentedControlResult):
        return (
            StudyEstimate(
                name=name,
                method="augmented control, conformal interval",
                estimate=result.average_effect,
                ci_low=result.ci_low,
                ci_high=result.ci_high,
                confidence_level=result.confidence_level,
                p_value=result.p_value,
                reason=result.ci_reason,
            ),
            StudyEstimate(
                name="average per period, not augmented",
                method="synthetic control on outcomes",
                estimate=result.simplex_average_effect,
                confidence_level=result.confidence_level,
            ),
        )
    last = StudyEstimate(
        name="in the last period",
        method="synthetic control",
        estimate=float(result.effect[-1]),
        confidence_level=0.95 if space is None else space.confidence_level,
    )
    if space is None:
        main = StudyEstimate(
            name=name,
            method="synthetic control, no placebos to tell its error",
            estimate=result.average_effect,
            confidence_level=0.95,
            reason="N_TOO_SMALL",
        )
        return (main, last)
    main = StudyEstimate(
        name=name,
        method="synthetic control, interval by inverting the placebo test",
        estimate=result.average_effect,
        ci_low=space.ci_low,
        ci_high=space.ci_high,
        confidence_level=space.confidence_level,
        p_value=space.p_value,
        reason=space.ci_reason,
    )
    return (main, last)
