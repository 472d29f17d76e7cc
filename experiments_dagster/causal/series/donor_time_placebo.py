"""Placebo in time for donor designs: the same method at starts that never happened.

The start is moved to evenly spread steps of the pre period. Each refit sees the steps before its
start and as many after it as count for the real effect, all of them before the intervention, so no
placebo reads an outcome that treatment could have moved. Ranking is that of `placebo_rank`.

Placebos have less history than the real fit and follow their past less closely; with few steps
before they look larger, which errs on the safe side.

References:
    Abadie, Diamond & Hainmueller 2015, section "in-time placebo"; Heckman & Hotz 1989.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from experiments_dagster.causal.series.donor_panel import DonorPanel, Predictor
from experiments_dagster.causal.series.donor_placebo import EffectOf
from experiments_dagster.causal.series.placebo_rank import rank_placebos, spread_steps
from experiments_dagster.causal.series.records import PlaceboResult
from experiments_dagster.causal.series.synthetic_control import FEW_STEPS
from experiments_dagster.stats.errors import EstimationError


def donor_placebo_in_time(
    panel: DonorPanel,
    effect_of: EffectOf,
    *,
    n_post: int | None = None,
    n_placebos: int = 20,
    min_pre_steps: int = FEW_STEPS,
    min_placebos: int = 1,
) -> PlaceboResult:
    """Rank the average effect among those of starts moved into the pre period.

    Args:
        panel: Treated units and their donors.
        effect_of: The whole method, such as `synthetic_did_effect`. With predictors, whose windows
            must end before each start, cut them by `cut_predictors` inside it.
        n_post: Steps after the intervention that count, also after each placebo; all by default.
        n_placebos: Number wanted; below 19 no p can fall under 0.05.
        min_pre_steps: Fewest steps before a moved start.
        min_placebos: Fewest that must be estimable.

    Raises:
        EstimationError: N_TOO_SMALL where fewer starts fit; otherwise as `effect_of` on all data.
        ValueError: Numbers that make no sense.
    """
    length = panel.n_post if n_post is None else n_post
    if not (0 < length <= panel.n_post and n_placebos > 0 and min_pre_steps > 1):
        msg = (
            f"n_post {length}, n_placebos {n_placebos}, min_pre_steps {min_pre_steps}; need 1 to "
            f"{panel.n_post}, at least 1 and at least 2"
        )
        raise ValueError(msg)

    def average_effect(step: int) -> float:
        n_fit = min(step, panel.n_fit)
        outcomes = panel.outcomes[: step + length]
        moved = replace(panel, outcomes=outcomes, n_pre=step, n_fit=n_fit)
        return float(effect_of(moved)[step:].mean())

    effect = average_effect(panel.n_pre)
    effects: dict[int, float] = {}
    for step in spread_steps(min_pre_steps, panel.n_fit - length, n_placebos):
        try:
            effects[step] = average_effect(step)
        except EstimationError:  # such as no predictor before this step
            continue
    if len(effects) < max(min_placebos, 1):
        detail = (
            f"{len(effects)} starts with {min_pre_steps} steps before and {length} after, need "
            f"{max(min_placebos, 1)}; hint: a shorter n_post"
        )
        raise EstimationError("N_TOO_SMALL", "placebo in time", detail)
    return rank_placebos(effect, effects, length)


def cut_predictors(predictors: Sequence[Predictor], panel: DonorPanel) -> list[Predictor]:
    """Return the predictors as far as the fits of a moved panel may read them.

    Windows that begin at its start or later are left out. For predictors that the whole panel
    accepts: cutting is no remedy for a window that reaches the intervention.

    Raises:
        EstimationError: NOT_IDENTIFIED where no window is left.
    """
    kept = [
        replace(
            predictor,
            values=predictor.values[: len(panel.outcomes)],
            stop=min(predictor.stop, panel.n_fit),
        )
        for predictor in predictors
        if predictor.first < panel.n_fit
    ]
    if predictors and not kept:
        detail = f"every window begins after step {panel.n_fit - 1}"
        raise EstimationError("NOT_IDENTIFIED", "predictors", detail)
    return kept
