"""The sections of an intervention report."""

from __future__ import annotations

from typing import Protocol

from experiments_dagster.causal.series.records import EffectInterval, ImpactResult, PlaceboResult
from experiments_dagster.config.intervention import InterventionSpec
from experiments_dagster.config.resolve import canonical_hash
from experiments_dagster.reporting.blocks import (
    PHONE,
    WIDE,
    Block,
    Bullets,
    Cell,
    Facts,
    Paragraph,
    Table,
    exact,
    exact_interval,
    figure,
    phrase,
)
from experiments_dagster.reporting.charts import ImpactPoint, impact_chart
from experiments_dagster.reporting.numbers import (
    DASH,
    Format,
    alpha,
    count,
    day,
    level,
    lift,
    missing,
    moment,
    number,
    p_value,
    plural,
    probability,
    reason_words,
    sentence,
    share,
    signed,
)

NOISE = {"local_level": "a local level", "ar1": "an AR(1) error"}


class Provenance(Protocol):
    """What the lineage section reads, apart from the estimate."""

    @property
    def treated(self) -> str:
        """Who was treated."""

    @property
    def controls(self) -> str:
        """What the counterfactual is built from."""

    @property
    def as_of(self) -> str | None:
        """ISO instant of the cut-off, if known."""

    @property
    def cutoff(self) -> int:
        """Number of the last batch read."""

    @property
    def config_hash(self) -> str | None:
        """Hash of the configuration, if it has one."""

    @property
    def code_version(self) -> str:
        """Version of the program."""

    @property
    def inputs(self) -> dict[str, str]:
        """SHA-256 by input file."""


def design_blocks(spec: InterventionSpec, record: Provenance) -> list[Block]:
    """What happened, the estimand and what has to hold."""
    rows: tuple[tuple[str, Cell], ...] = (
        ("Intervention", spec.description),
        ("Treated", record.treated),
        ("Counterfactual from", record.controls),
        ("Series", f"{spec.series.metric}, {spec.series.frequency}"),
        ("Before", f"{day(spec.pre.start)} to {day(spec.pre.end)}"),
        ("After", f"{day(spec.post.start)} to {day(spec.post.end)}"),
        ("Estimand", ("sum over the steps after of observed minus what would have been observed "
                     "without the intervention, for the treated only")),
        ("Design", "structural time series with the controls as covariates, fitted before only"),
        ("Alpha", alpha(spec.design.alpha)),
    )  # fmt: skip
    assumptions = (
        (
            "The intervention was not randomised: whoever chose the treated may have chosen them "
            "for reasons that also move the series."
        ),
        "The controls are not touched by the intervention (no spill-over).",
        "What ties the series to the controls before the intervention stays as it was.",
        "Nothing else that moves the treated only began at the same time.",
    )
    return [Facts(rows=rows), Bullets(items=assumptions)]


def fit_blocks(result: ImpactResult | None, reason: str | None) -> list[Block]:
    """How well the model predicts the series before the intervention."""
    if result is None:
        return [_absent(reason)]
    found = result.diagnostics
    rows: list[tuple[str, Cell]] = [
        ("Steps before, after", f"{count(result.n_pre)}, {count(result.n_post)}"),
        ("R² one step ahead", exact(found.r2_pre, number)),
        ("RMSE one step ahead", exact(found.rmse_pre, number)),
        ("Mean absolute percentage error", exact(found.mape_pre, share, "a value before is 0")),
        ("Largest autocorrelation, lags 1 to 7", exact(found.max_abs_acf, number)),
        ("Ljung-Box p", exact(found.ljung_box_p, p_value)),
        ("Normality p", exact(found.normality_p, p_value)),
    ]
    if found.backtest is None:
        rows.append(("Back-test", missing("too few steps before to hold any out")))
    else:
        covered = "inside" if found.backtest.covers_total else "outside"
        rows.append(
            (
                "Back-test",
                phrase(
                    "{} of the last {} steps before are inside their intervals; their sum is {} "
                    "its interval",
                    exact(found.backtest.coverage, share),
                    found.backtest.n_points,
                    covered,
                ),
            )
        )
    weight = phrase(
        "{} (weight of the local level {})",
        NOISE[result.noise_model],
        exact(result.local_level_weight, share),
    )
    rows += [("Noise", weight), ("Season", "modelled" if result.is_seasonal else "none")]
    blocks: list[Block] = [Facts(rows=tuple(rows))]
    blocks += [Paragraph(words=(sentence(words),), tone="note") for words in result.warnings]
    if found.backtest is not None and not found.backtest.covers_total:
        words = "The model missed the last steps before the intervention: do not trust it after."
        blocks.append(Paragraph(words=(words,), tone="warning"))
    return blocks


def placebo_blocks(placebo: PlaceboResult | None, reason: str | None) -> list[Block]:
    """What the same model says about dates where nothing happened."""
    if placebo is None:
        why = sentence(reason_words(reason) or "none was run")
        rest = "Without one the difference is an association, no effect."
        return [Paragraph(words=(f"No placebo: {why}", rest), tone="warning")]
    rows: tuple[tuple[str, Cell], ...] = (
        ("Placebo dates", f"{len(placebo.effects)}, {placebo.n_disjoint} of them without overlap"),
        ("Average difference at the real date", exact(placebo.effect, signed)),
        ("Smallest and largest at placebo dates",
         exact_interval(float(placebo.effects.min()), float(placebo.effects.max()), signed)
         if len(placebo.effects) else DASH),
        ("Placebo p", exact(placebo.p_value, p_value)),
        ("Sign test of the placebos, p", exact(placebo.sign_p_value, p_value)),
    )  # fmt: skip
    blocks: list[Block] = [Facts(rows=rows)]
    if placebo.is_one_sided:
        words = "All placebo differences lean to one side: the model is biased."
        blocks.append(Paragraph(words=(words,), tone="warning"))
    blocks += [Paragraph(words=(sentence(words),), tone="note") for words in placebo.warnings]
    return blocks


def chart_blocks(
    spec: InterventionSpec, points: list[ImpactPoint], *, unit: str | None = None
) -> list[Block]:
    """The three panels, for a page and for a phone."""
    if not points:
        return [Paragraph(words=("There is nothing to draw.",), tone="muted")]
    drawings = [
        impact_chart(
            points,
            spec.post.start,
            title=f"{spec.series.metric}: observed against counterfactual",
            unit=unit,
            confidence_level=1 - spec.design.alpha,
            width=width,
        )
        for width in (WIDE, PHONE)
    ]
    caption = (
        "The dashed line marks the first day after. Before it the counterfactual is a prediction "
        "one step ahead, after it a forecast that has not seen the series."
    )
    return [figure(drawings[0], drawings[1], caption)]


def result_blocks(result: ImpactResult | None, reason: str | None, term: str) -> list[Block]:
    """Total, average and relative difference."""
    if result is None:
        return [_absent(reason)]
    rows = [
        _result_row("Total", result.total, signed),
        _result_row("Average per step", result.average, signed),
    ]
    if result.relative is not None:
        rows.append(_result_row("Relative to the counterfactual", result.relative, lift))
    else:
        why = missing(result.relative_reason)
        rows.append(("Relative to the counterfactual", why, DASH, DASH))
    confidence = level(result.confidence_level)
    header = (f"{term}, counterfactual difference", "estimate", f"{confidence} interval", "sd")
    caption = phrase(
        "Two-sided p {}; probability of this sign {}; {} draws. Both hold only if the model does.",
        exact(result.p_value, p_value),
        exact(result.posterior_prob, probability),
        count(result.n_draws),
    )
    economics = "No money amount is declared for interventions; none is derived."
    return [
        Table(header=header, rows=tuple(rows), align="lrrr", caption=caption),
        Paragraph(words=(economics,), tone="muted"),
    ]


def _result_row(label: str, found: EffectInterval, shown: Format) -> tuple[Cell, ...]:
    plain: Format = share if shown is lift else number
    return (
        label,
        exact(found.estimate, shown),
        exact_interval(found.ci_low, found.ci_high, shown),
        exact(found.std_error, plain),
    )


def lineage_blocks(record: Provenance) -> list[Block]:
    """What the numbers were made from."""
    files = plural(len(record.inputs), "file")
    rows: list[tuple[str, Cell]] = [
        ("Cut-off", f"batch {record.cutoff}"),
        ("Code version", record.code_version),
        ("Input files", f"{files}, hash over all {canonical_hash(record.inputs)}"),
    ]
    if record.config_hash:
        rows.insert(1, ("Configuration", record.config_hash))
    if record.as_of:
        rows.insert(0, ("As of", f"{moment(record.as_of, 'UTC')} UTC"))
    return [Facts(rows=tuple(rows))]


def step_blocks(
    *, is_estimable: bool, is_significant: bool, is_supported: bool, has_placebo: bool
) -> list[Block]:
    """What to do now."""
    if not is_estimable:
        items = ["Give the model what it lacks (see the reason above), then run it again."]
    elif is_supported:
        items = [
            "Use the interval, not the point, when something is planned from it.",
            "Randomise the next one: no placebo replaces a control group.",
        ]
    else:
        items = ["Do not report this as an effect."]
        if not has_placebo:
            items.append("Run the placebo in time; it needs a longer history or a shorter period.")
        if is_significant:
            items.append("Ask what else began at that date for the treated only.")
        items.append("Randomise the next one, if it matters.")
    return [Bullets(items=tuple(items), numbered=True)]


def _absent(reason: str | None) -> Paragraph:
    words = f"Not estimable: {sentence(reason_words(reason) or 'no estimate was recorded')}"
    return Paragraph(words=(words,), tone="warning")
