"""The sections that say how far a result can be believed: none of them decides."""

from __future__ import annotations

from collections.abc import Sequence

from experiments_dagster.config.resolve import Experiment
from experiments_dagster.looks.records import Effect, Look, Novelty, Trust
from experiments_dagster.reporting.blocks import (
    PHONE,
    WIDE,
    Block,
    Cell,
    Heading,
    Paragraph,
    Table,
    exact,
    exact_interval,
    figure,
    phrase,
)
from experiments_dagster.reporting.charts import novelty_chart
from experiments_dagster.reporting.metric_sections import (
    NAIVE,
    difference_format,
    table_of_arms,
)
from experiments_dagster.reporting.numbers import (
    DASH,
    Format,
    declared,
    level,
    lift,
    missing,
    number,
    one_in,
    p_value,
    points,
    share,
    signed,
)
from experiments_dagster.reporting.trajectory import deciding_effect
from experiments_dagster.stats.novelty import WARN_P
from experiments_dagster.stats.trust import PRIOR_BAND, TWYMAN_RATIO

# What each method of the sensitivity list estimates, by its name in the rows and in the plan.
METHODS = {
    "welch_log1p": "Welch on ln(1 + value)",
    "yuen": "trimmed means (Yuen)",
    "mann_whitney": "ranks (Mann-Whitney)",
    "poisson_bootstrap": "bootstrap",
    "permutation": "permutation",
}
ESTIMANDS = {
    "welch_log1p": "difference of mean logs: relative changes count, so that the largest values "
    "weigh less; not a lift of the mean",
    "yuen": "difference of means without the lowest and highest fifth of each arm: the middle of "
    "the units, not all of them",
    "mann_whitney": "how much more often than in half of all pairs the treated unit has the larger "
    "value; nothing about size",
    "poisson_bootstrap": "difference of means; interval from resampling, not from a normal "
    "distribution",
    "permutation": "difference of means; p from re-drawing the arms, interval by Welch",
}
FIND_THE_FAULT = "Look for a fault in logging, assignment or exposure before believing it."
PLANNED_NAMES = {"log1p": "welch_log1p", "trimmed": "yuen", "bootstrap": "poisson_bootstrap"}


def trust(look: Look, experiment: Experiment) -> list[Block]:
    """Too good to be true, false wins, lifts drawn towards the prior, and too little data."""
    if not look.trust:
        return []
    blocks: list[Block] = []
    suspicious = [row for row in look.trust if row.is_suspicious]
    if suspicious:
        words = (*(_suspicion(row, look, experiment) for row in suspicious), FIND_THE_FAULT)
        blocks.append(Paragraph(words=words, tone="warning"))
    blocks += [
        Paragraph(words=(_underpowered(row, look, experiment),), tone="note")
        for row in look.trust
        if row.is_underpowered
    ]
    return [*blocks, _trust_table(look, experiment), *_false_wins(look, experiment)]


def suspicion(look: Look) -> Cell | None:
    """The warning at the top of a report that an effect is too large to be likely."""
    names = [f"{row.metric} ({row.arm})" for row in look.trust if row.is_suspicious]
    if not names:
        return None
    return phrase(
        "Too large to be true? The effect on {} is far beyond what the prior and the noise allow. "
        "{} See “How far to trust this”.",
        ", ".join(names),
        FIND_THE_FAULT,
    )


def _suspicion(row: Trust, look: Look, experiment: Experiment) -> Cell:
    effect = _lift(look, experiment, row)
    return phrase(
        "Too large to be true? The lift of {} in {}, {}, is {} times the spread that the prior and "
        "the noise allow; the limit is {}.",
        row.metric,
        row.arm,
        exact(effect.estimate if effect else None, lift),
        exact(row.twyman_ratio, number),
        f"{TWYMAN_RATIO:g}",
    )


def _underpowered(row: Trust, look: Look, experiment: Experiment) -> Cell:
    effect = _lift(look, experiment, row)
    limits = exact_interval(
        effect.ci_low if effect else None, effect.ci_high if effect else None, lift
    )
    return phrase(
        "Inconclusive, which is not the same as no effect: for {} in {} the naive interval, {}, "
        "holds both no effect and one of the planned size ({}).",
        row.metric,
        row.arm,
        limits,
        declared(experiment.plan.mde),
    )


def _lift(look: Look, experiment: Experiment, row: Trust) -> Effect | None:
    return deciding_effect(look, experiment, row.metric, row.arm, "relative_difference")


def _trust_table(look: Look, experiment: Experiment) -> Table:
    rows = []
    for row in look.trust:
        effect = _lift(look, experiment, row)
        rows.append(
            (
                row.metric,
                row.arm,
                exact(effect.estimate if effect else None, lift),
                exact(row.shrunk_estimate, lift),
                exact(row.shrunk_std_error, share),
                exact(row.twyman_ratio, number),
            )
        )
    priors = dict.fromkeys(f"{row.prior} prior ({_prior_words(row)})" for row in look.trust)
    caption = (
        f"Shrunk (with its standard error): drawn towards no effect by the "
        f"{' and the '.join(priors)}. Plan with it after a win; the verdict rests on the raw lift. "
        "Size: the raw lift in units of the spread that prior and noise allow; above "
        f"{TWYMAN_RATIO:g} it is suspicious."
    )
    header = ("metric", "arm", "raw lift", "shrunk lift", "std. error", "size against prior")
    return table_of_arms(
        header, "llrrrr", rows, caption=caption, has_arms=len(experiment.treatments) > 1
    )


def _prior_words(row: Trust) -> str:
    spread = f"true lifts spread around 0 with standard deviation {share(row.prior_sd)}"
    return spread if row.prior == "declared" else f"{spread}; the plan declares none"


def _false_wins(look: Look, experiment: Experiment) -> list[Block]:
    """The false-positive risk in words, once where all success hypotheses have the same."""
    bands = dict.fromkeys(
        (row.false_positive_risk_low, row.false_positive_risk_high) for row in look.trust
    )
    return [
        Paragraph(words=(_false_win_words(low, high, experiment),), tone="plain")
        for low, high in bands
    ]


def _false_win_words(low: float, high: float, experiment: Experiment) -> Cell:
    prior = experiment.plan.prior
    if prior is not None and prior.share_true is not None:
        return phrase(
            "False wins: {} of the wins that such a plan declares have no effect behind them ({}), "
            "if {} of the changes tested truly work, as the plan says.",
            exact(high, share),
            one_in(high),
            share(prior.share_true),
        )
    return phrase(
        "False wins: {} to {} of the wins that such a plan declares have no effect behind them "
        "({} to {}), if {} to {} of the changes tested truly work. The plan gives no share of its "
        "own.",
        exact(low, share),
        exact(high, share),
        one_in(low),
        one_in(high),
        share(PRIOR_BAND[1]),
        share(PRIOR_BAND[0]),
    )


def novelty(look: Look, experiment: Experiment) -> list[Block]:
    """The effect by day since exposure and whether it has a trend."""
    shown = difference_format(experiment.primary)
    blocks: list[Block] = []
    for row in look.novelty:
        if len(experiment.treatments) > 1:
            blocks.append(Heading(words=f"{row.arm} against {experiment.control}"))
        if row.is_flagged:
            blocks.append(Paragraph(words=(_trend_warning(row),), tone="warning"))
        wide, phone = (novelty_chart(row, shown=shown, width=width) for width in (WIDE, PHONE))
        unit = experiment.primary.display_unit
        caption = (
            f"{row.metric}, {row.arm}: difference of the daily means"
            f"{f' in {unit}' if unit else ''}, unadjusted, among units observed on every day. "
            "Day 0 is the day of exposure."
        )
        blocks += [
            figure(wide, phone, caption),
            Paragraph(words=(_trend(row, shown),)),
        ]
    return blocks


def _trend(row: Novelty, shown: Format) -> Cell:
    third = len(row.days) // 3
    return phrase(
        "The effect changes by {} per day (std. error {}, p {}). Early, on the first {} days, it "
        "is {}; late, on the last {}, {} (p of the change {}).",
        exact(row.slope, shown),
        exact(row.slope_std_error, number),
        exact(row.slope_p_value, p_value),
        str(third),
        exact(row.early, shown),
        str(third),
        exact(row.late, shown),
        exact(row.contrast_p_value, p_value),
    )


def _trend_warning(row: Novelty) -> Cell:
    if row.early * row.late < 0:
        how = "changes its sign"
    else:
        how = "wears off" if abs(row.late) < abs(row.early) else "grows"
    return phrase(
        "The effect {} with the days since exposure (p {}, limit {}): its mean over the window is "
        "not what remains later.",
        how,
        exact(row.slope_p_value, p_value),
        f"{WARN_P:g}",
    )


def sensitivity(look: Look, experiment: Experiment) -> list[Block]:
    """The primary metric by other methods, each with what it estimates in plain words."""
    if not look.sensitivity:
        return []
    words = (
        "The same data by other methods, all without covariates. They decide nothing and need not "
        "agree in size, as they estimate different things; a different sign is worth a look."
    )
    blocks: list[Block] = [Paragraph(words=(words,), tone="muted")]
    for arm in experiment.treatments:
        rows = [row for row in look.sensitivity if row.arm == arm]
        if not rows:
            continue
        if len(experiment.treatments) > 1:
            blocks.append(Heading(words=f"{arm} against {experiment.control}"))
        blocks.append(_sensitivity_table(look, experiment, arm, rows))
    return blocks


def _sensitivity_table(
    look: Look, experiment: Experiment, arm: str, rows: Sequence[Effect]
) -> Table:
    shown = difference_format(experiment.primary)
    metric = experiment.primary.name
    cells: list[tuple[Cell, ...]] = []
    plan = [("method of the plan", "decides", experiment.adjusts)]
    if experiment.adjusts:
        plan.append(("the same without covariates", "for comparison", False))
    for name, use, is_adjusted in plan:
        found = look.effect(metric, arm, "difference", adjusted=is_adjusted)
        if found is not None:
            words = phrase("{}<small>difference of means; {}</small>", name, use)
            cells.append((words, *_numbers(found, shown)))
    strong = frozenset({0} if cells else ())
    cells += [_sensitivity_row(row, shown) for row in rows]
    confidence = next((row.confidence_level for row in rows if row.confidence_level), None)
    caption = f"Intervals at {level(confidence)}. {NAIVE}." if confidence else f"{NAIVE}."
    header = (metric, "estimate", "interval", "p")
    return Table(header=header, rows=tuple(cells), align="wrrr", caption=caption, strong=strong)


def _sensitivity_row(row: Effect, shown: Format) -> tuple[Cell, ...]:
    key = PLANNED_NAMES.get(row.method, row.method)
    meaning = ESTIMANDS.get(key, row.estimand.replace("_", " "))
    formats: dict[str, Format] = {
        "log_mean_difference": signed,
        "probability_of_superiority": points,
    }
    words = phrase("{}<small>{}</small>", METHODS.get(key, key), meaning)
    return (words, *_numbers(row, formats.get(row.estimand, shown)))


def _numbers(row: Effect, shown: Format) -> tuple[Cell, Cell, Cell]:
    if row.status != "ok":
        return missing(row.reason), DASH, DASH
    return (
        exact(row.estimate, shown),
        exact_interval(row.ci_low, row.ci_high, shown),
        exact(row.p_value, p_value),
    )
