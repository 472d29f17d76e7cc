"""What is watched at any time: confidence sequences of success, and of harm.

Both are valid at every look, planned or not, and spend nothing of the plan's alpha. They are
asymptotic and start when the contrast is nearly normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.contrasts import is_nearly_normal
from experiments_dagster.looks.estimates import Estimates
from experiments_dagster.looks.records import AnytimeInterval, Boundary, Frozen, Look
from experiments_dagster.looks.sequential import (
    Spending,
    information_fraction,
    normal_score,
    one_sided,
    sign_of,
)
from experiments_dagster.stats.multiplicity import FAMILIES
from experiments_dagster.stats.sequential.confidence_sequence import (
    confidence_sequence,
    running_intersection,
    running_p_value,
    tuning_information,
)


def anytime_intervals(
    experiment: Experiment, estimates: Estimates, frozen: Frozen, earlier: Sequence[Look]
) -> list[AnytimeInterval]:
    """The confidence sequence of every success metric and arm; absent while n is too small.

    That of the primary effect is tuned to the planned information; another metric's to what it
    will have when the primary has that, fixed at its first look.
    """
    rows = []
    for metric, arm in product(experiment.success_metrics, experiment.treatments):
        result = estimates.results.get((metric.name, arm))
        primary = estimates.results.get((experiment.primary.name, arm))
        if result is None or primary is None or not is_nearly_normal(result):
            continue
        difference, relative = result.deciding.difference, result.deciding.relative
        alpha = experiment.alpha_per_hypothesis
        before = [
            row
            for look in earlier
            for row in look.anytime
            if (row.metric, row.arm) == (metric.name, arm)
        ]
        if metric is experiment.primary:
            g = tuning_information(frozen.planned_information[arm], alpha)
        elif before:
            g = before[0].g
        else:
            aim = 1 / difference.std_error**2 / information_fraction(primary, frozen)
            g = tuning_information(aim, alpha)
        point = confidence_sequence(difference.estimate, difference.std_error, g=g, alpha=alpha)
        assert point.high is not None
        running = running_intersection(
            [*((row.low, row.high) for row in before), (point.low, point.high)]
        )
        multiplier = point.half_width / difference.std_error
        half = multiplier * relative.std_error if relative else 0.0
        rows.append(
            AnytimeInterval(
                metric=metric.name,
                arm=arm,
                g=g,
                low=point.low,
                high=point.high,
                relative_low=relative.estimate - half if relative else None,
                relative_high=relative.estimate + half if relative else None,
                log_e_value=point.log_e_value,
                p_value=running_p_value([*(row.log_e_value for row in before), point.log_e_value]),
                running_low=running.low,
                running_high=running.high,
                flag=running.flag,
            )
        )
    return rows


def deterioration(
    experiment: Experiment, estimates: Estimates, frozen: Frozen | None, earlier: Sequence[Look]
) -> list[Boundary]:
    """One-sided confidence sequences against harm, for success metrics and guardrails alike.

    `statistic` points in the undesired direction; `crossed` is `undesired` where harm is shown. A
    metric does not wait for the primary one: until that is estimable its sequence is tuned to the
    information that it has at its own first look.
    """
    metrics = (*experiment.success_metrics, *(metric for _, metric in experiment.guardrails))
    alpha = FAMILIES["deterioration"].own_alpha
    assert alpha is not None
    rows = []
    for arm in experiment.treatments:
        primary = estimates.results.get((experiment.primary.name, arm))
        for metric in metrics:
            result = estimates.results.get((metric.name, arm))
            if result is None or not is_nearly_normal(result):
                continue
            fraction = 1.0
            if primary is not None and frozen is not None:
                fraction = information_fraction(primary, frozen)
            spending = Spending(
                alpha=alpha / (len(metrics) * len(experiment.treatments)),
                fraction=fraction,
                is_last=False,
            )
            stored = [
                row
                for look in earlier
                for row in look.deterioration
                if (row.metric, row.arm) == (metric.name, arm)
            ]
            contrast = result.deciding
            statistic = -sign_of(metric) * normal_score(contrast.difference)
            row = one_sided(result, contrast, statistic, spending, stored, kind="deterioration")
            crossed = "undesired" if row.crossed == "desired" else "none"
            rows.append(row.model_copy(update={"crossed": crossed}))
    return rows
