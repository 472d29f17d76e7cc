"""Does the effect hang on one donor, one predictor or the last steps before the intervention?

The method is refitted without each in turn, and the average post effects are compared with the
full one. A changed sign, or a change of more than half the full effect, makes the result fragile.
Held-out steps before the intervention have a gap of their own, which should be near 0: more than
half the full effect there, in its direction, says that it began before the intervention.

References:
    Abadie, Diamond & Hainmueller 2015, sections "leave-one-out" and "in-time placebo".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments_dagster.causal.series.donor_panel import (
    FEWEST_DONORS,
    DonorPanel,
    IntArray,
    Predictor,
)
from experiments_dagster.causal.series.donor_placebo import EffectOf
from experiments_dagster.causal.series.records import FloatArray, refuse_non_finite
from experiments_dagster.stats.errors import EstimationError

LeftOut = Literal["donor", "predictor", "last_pre_steps"]
FRAGILE_CHANGE = 0.5
EARLY_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """Average post effects of refits beside the full one.

    `left_out` are donor columns, predictor positions or numbers of held-out steps, `effects` the
    average effects without them. `largest_change` is |refit - full| / |full| at its largest, None
    where the full effect is 0. `held_out_effects` are the average gaps of the held-out steps,
    None unless these are what was left out; `is_early` concerns the longest stretch of them.
    """

    kind: LeftOut
    full_effect: float
    left_out: IntArray
    effects: FloatArray
    held_out_effects: FloatArray | None
    largest_change: float | None
    is_sign_changed: bool
    is_fragile: bool
    is_early: bool

    def __post_init__(self) -> None:
        refuse_non_finite(self)


def leave_one_donor_out(
    panel: DonorPanel, effect_of: EffectOf, *, donors: Sequence[int] | None = None
) -> Sensitivity:
    """Refit without each donor.

    Args:
        panel: The treated unit and its donors.
        effect_of: The whole method, see `placebo_in_space`.
        donors: Columns to leave out, such as those with weight; each donor by default.

    Raises:
        EstimationError: N_TOO_SMALL where too few donors would remain; otherwise as `effect_of`.
    """
    columns = panel.donors.tolist() if donors is None else list(donors)
    unknown = set(columns) - set(panel.donors.tolist())
    if unknown or not columns:
        msg = f"columns {columns} to leave out; need some of the donors {panel.donors.tolist()}"
        raise ValueError(msg)
    if len(panel.donors) <= FEWEST_DONORS:
        detail = f"{len(panel.donors)} donors, need {FEWEST_DONORS + 1}"
        raise EstimationError("N_TOO_SMALL", "leave one donor out", detail)
    effects = [_average(panel, effect_of(panel.without_donor(column))) for column in columns]
    return _compare("donor", _average(panel, effect_of(panel)), columns, effects)


def leave_one_predictor_out(
    panel: DonorPanel,
    predictors: Sequence[Predictor],
    effect_of: Callable[[DonorPanel, Sequence[Predictor]], FloatArray],
) -> Sensitivity:
    """Refit without each predictor, predictor weights chosen anew.

    Args:
        panel: The treated unit and its donors.
        predictors: At least two.
        effect_of: The whole method given predictors, such as `synthetic_control_effect`.

    Raises:
        EstimationError: N_TOO_SMALL with fewer than two predictors; otherwise as `effect_of`.
    """
    if len(predictors) <= 1:
        detail = f"{len(predictors)} predictor, need 2"
        raise EstimationError("N_TOO_SMALL", "leave one predictor out", detail)
    positions = list(range(len(predictors)))
    effects = [
        _average(panel, effect_of(panel, [*predictors[:i], *predictors[i + 1 :]]))
        for i in positions
    ]
    full = _average(panel, effect_of(panel, predictors))
    return _compare("predictor", full, positions, effects)


def drop_last_pre_steps(
    panel: DonorPanel, effect_of: EffectOf, *, n_dropped: Sequence[int] = (1, 2, 3)
) -> Sensitivity:
    """Refit without the last steps before the intervention; the post period stays.

    Args:
        panel: The treated unit and its donors.
        effect_of: The whole method, see `placebo_in_space`.
        n_dropped: Numbers of steps to hold out, such as 7, 14 and 21 for days.

    Raises:
        EstimationError: N_TOO_SMALL where too few steps would remain, NOT_IDENTIFIED where a
            predictor's window lies in them; otherwise as `effect_of`.
    """
    if not n_dropped or min(n_dropped) < 1:
        msg = f"n_dropped {list(n_dropped)}; need positive numbers of steps"
        raise ValueError(msg)
    gaps = [effect_of(panel.holding_out(n)) for n in n_dropped]
    held_out = [
        float(gap[panel.n_fit - n : panel.n_fit].mean())
        for gap, n in zip(gaps, n_dropped, strict=True)
    ]
    effects = [_average(panel, gap) for gap in gaps]
    full = _average(panel, effect_of(panel))
    return _compare("last_pre_steps", full, n_dropped, effects, held_out)


def _average(panel: DonorPanel, effect: FloatArray) -> float:
    return float(effect[panel.n_pre :].mean())


def _compare(
    kind: LeftOut,
    full: float,
    left_out: Sequence[int],
    effects: Sequence[float],
    held_out: Sequence[float] | None = None,
) -> Sensitivity:
    refits = np.array(effects)
    change = float(np.abs(refits - full).max() / abs(full)) if full else None
    early = held_out[int(np.argmax(left_out))] / full if held_out and full else 0.0
    is_sign_changed = bool((np.sign(refits) != np.sign(full)).any())
    return Sensitivity(
        kind=kind,
        full_effect=full,
        left_out=np.array(left_out, dtype=np.int64),
        effects=refits,
        held_out_effects=None if held_out is None else np.array(held_out),
        largest_change=change,
        is_sign_changed=is_sign_changed,
        is_fragile=is_sign_changed or change is None or change > FRAGILE_CHANGE,
        is_early=early > EARLY_SHARE,
    )
