"""The rank of an effect among placebo effects in time, whatever method made them.

With average effects e_1..e_n after interventions that never happened,

    p = (1 + #{|e_i| >= |e|}) / (1 + n),    never 0
    sign test: p = 2 P(Bin(m, ½) <= count of the rarer sign)

where m counts windows that share no step and the rarer sign's count is scaled to m.

References:
    Phipson & Smyth 2010 for the +1; Abadie, Diamond & Hainmueller 2015 for placebos in time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from experiments_dagster.causal.series.records import PlaceboResult


def spread_steps(first: int, last: int, n_placebos: int) -> list[int]:
    """Return up to `n_placebos` evenly spread steps from `first` to `last`; none if it is before.

    Examples:
        >>> spread_steps(10, 20, 3), spread_steps(5, 6, 20), spread_steps(5, 4, 20)
        ([10, 15, 20], [5, 6], [])
    """
    if last < first:
        return []
    n_steps = min(n_placebos, last - first + 1)
    return [round(float(step)) for step in np.linspace(first, last, n_steps)]


def rank_placebos(effect: float, placebos: Mapping[int, float], n_post: int) -> PlaceboResult:
    """Rank the effect among those of moved interventions.

    Args:
        effect: Average effect after the real intervention.
        placebos: Step of each moved intervention in order, and its average effect; at least one.
        n_post: Steps after each.

    Examples:
        >>> found = rank_placebos(3.0, {10: 1.0, 15: -4.0, 20: 0.5}, 5)
        >>> found.p_value, found.n_disjoint
        (0.5, 3)
    """
    positions = np.array(list(placebos), dtype=np.int64)
    effects = np.array(list(placebos.values()))
    n_disjoint, free_from = 0, 0
    for step in positions.tolist():
        if step >= free_from:
            n_disjoint, free_from = n_disjoint + 1, step + n_post
    share = float((effects > 0).mean())
    rarer = round(min(share, 1 - share) * n_disjoint)
    tail = sum(math.comb(n_disjoint, k) for k in range(rarer + 1)) / 2.0**n_disjoint
    overlap = (
        f"{len(effects)} windows overlap, {n_disjoint} disjoint: p below "
        f"{1 / (1 + n_disjoint):.2g} is luck"
    )
    return PlaceboResult(
        effect=effect,
        positions=positions,
        effects=effects,
        p_value=(1 + int((np.abs(effects) >= abs(effect)).sum())) / (1 + len(effects)),
        sign_p_value=min(1.0, 2 * tail),
        is_one_sided=bool((effects > 0).all() or (effects < 0).all()),
        n_disjoint=n_disjoint,
        warnings=() if n_disjoint >= len(effects) else (overlap,),
    )
