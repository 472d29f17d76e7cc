"""The command that looks at all decided experiments of a project together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments_dagster.cli.numbers import interval, p_value, percent
from experiments_dagster.cli.output import (
    AsJson,
    OutJson,
    OutMd,
    Sheet,
    deliver,
    err,
    exit_codes,
    progress,
    warn,
)

if TYPE_CHECKING:
    from experiments_dagster.portfolio.pooling import MetricPortfolio
    from experiments_dagster.portfolio.summary import Portfolio
    from experiments_dagster.stats.shrinkage import EffectPrior


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(portfolio)


def portfolio(
    config_dir: Annotated[
        Path,
        typer.Option(
            "--config-dir", help="The project folder, or its configs/ folder.", metavar="DIR"
        ),
    ] = Path(),
    report: Annotated[
        bool, typer.Option("--report", help="Also write the HTML report and show its path.")
    ] = False,
    as_json: AsJson = False,
    out_json: OutJson = None,
    out_md: OutMd = None,
) -> None:
    """All decided experiments: raw and shrunk effects, means by metric, overlaps, what shipped."""
    with exit_codes():
        with progress("reading ledgers and frames"):
            from experiments_dagster.config.errors import ConfigError
            from experiments_dagster.config.project import read_project
            from experiments_dagster.portfolio.summary import portfolio_document, read_portfolio
            from experiments_dagster.storage.layout import Layout
            from experiments_dagster.storage.manifest import Manifest

            is_configs = (config_dir / "platform.yaml").exists()
            folder = config_dir.resolve().parent if is_configs else config_dir
            project, issues = read_project(folder)
            if project is None:
                raise ConfigError(issues)
            manifest = Manifest(Layout(project.storage)).refresh()
            found = read_portfolio(project, manifest)
        for issue in issues:
            warn(f"left out: {issue}")
        deliver(
            portfolio_document(found),
            _sheets(found),
            as_json=as_json,
            out_json=out_json,
            out_md=out_md,
        )
        if report:
            from experiments_dagster.portfolio.report import publish_portfolio

            err.print(
                f"report: {publish_portfolio(manifest.layout, found)}", markup=False, soft_wrap=True
            )


def _sheets(found: Portfolio) -> list[Sheet]:
    sheets = [_effects(found), *([_metrics(found)] if found.metrics else [])]
    if found.overlaps.pairs:
        sheets.append(_overlaps(found))
    if found.overlaps.tests:
        sheets.append(_interactions(found))
    return sheets


def _effects(found: Portfolio) -> Sheet:
    rows = [
        (
            one.arm.experiment,
            one.arm.arm,
            one.arm.metric,
            one.arm.verdict + (" *" if one.arm.is_shipped else ""),
            percent(one.arm.estimate),
            percent(one.arm.std_error, signed=False),
            percent(one.shrunk.estimate),
            percent(one.shrunk.posterior_sd, signed=False),
            _prior(one.prior),
        )
        for one in found.arms
    ]
    notes = [
        f"{row.experiment}{f' / {row.arm}' if row.arm else ''} left out: {row.reason}"
        for row in found.left_out
    ]
    if found.shipped:
        notes.insert(0, "* shipped")
    return Sheet(
        title=f"{len(rows)} decided arms, {len(found.shipped)} shipped; lift of the primary metric",
        columns=("experiment", "arm", "metric", "verdict", "raw", "se", "shrunk", "sd", "prior"),
        rows=rows,
        align="llllrrrrl",
        notes=notes,
    )


def _prior(prior: EffectPrior) -> str:
    from experiments_dagster.portfolio.pooling import PRIORS

    around = f"{percent(prior.mean)} " if prior.mean else ""
    return f"{around}± {percent(prior.tau2**0.5, signed=False)}, {PRIORS[prior.name]}"


def _metrics(found: Portfolio) -> Sheet:
    notes = ["sums add shrunk effects of one metric; different metrics are never added"]
    notes += [
        f"{metric.metric}: {metric.n_experiments} of the 5 decided experiments that a learned "
        "prior needs; each arm has the prior of its plan"
        for metric in found.metrics
        if metric.prior is None
    ]
    return Sheet(
        title="by metric",
        columns=("metric", "experiments", "mean", "interval", "tau", "prediction", "sum shipped"),
        rows=[_metric(metric) for metric in found.metrics],
        align="lrrrrrr",
        notes=notes,
    )


def _metric(metric: MetricPortfolio) -> tuple[str, ...]:
    pooled, shipped = metric.pooled, metric.shipped
    total = "-"
    if shipped is not None:
        sd = percent(shipped.std_error, signed=False)
        total = f"{percent(shipped.estimate)} ± {sd} ({shipped.n_effects})"
    if pooled is None:
        reason = metric.pooled_reason or "-"
        return (metric.metric, str(metric.n_experiments), reason, "-", "-", "-", total)
    tau = None if pooled.tau2 is None else pooled.tau2**0.5
    return (
        metric.metric,
        str(metric.n_experiments),
        percent(pooled.estimate),
        interval(pooled.ci_low, pooled.ci_high),
        percent(tau, signed=False),
        interval(pooled.prediction_low, pooled.prediction_high),
        total,
    )


def _overlaps(found: Portfolio) -> Sheet:
    rows = []
    for pair in found.overlaps.pairs:
        test = pair.dependence
        verdict = pair.reason or ""
        if test is not None:
            verdict = "DEPENDENT: assignment at fault" if test.is_dependent else "independent"
        rows.append(
            (
                f"{pair.first} x {pair.second}",
                f"{pair.n_units:,}",
                "-" if test is None else f"{test.statistic:.2f}",
                p_value(None if test is None else test.p_value),
                verdict,
            )
        )
    return Sheet(
        title="overlapping experiments: are their arms independent?",
        columns=("experiments", "common units", "chi2", "p", "arms"),
        rows=rows,
        align="lrrrl",
    )


def _interactions(found: Portfolio) -> Sheet:
    rows = []
    for test in found.overlaps.tests:
        seen = test.found
        rows.append(
            (
                f"{test.experiment} / {test.arm}",
                test.metric,
                f"{test.other} / {test.other_arm}",
                "-" if seen is None else f"{seen.in_control.estimate:+.4g}",
                "-" if seen is None else f"{seen.in_treatment.estimate:+.4g}",
                (test.reason or "-") if seen is None else f"{seen.estimate:+.4g}",
                "-" if seen is None else f"{seen.std_error:.4g}",
                p_value(None if seen is None else seen.p_value),
                p_value(test.p_adjusted),
            )
        )
    notes = ["effects in units of the metric, within each arm of the other experiment"]
    if found.overlaps.n_pairs_not_tested:
        notes.append(f"{found.overlaps.n_pairs_not_tested} smaller overlaps were not tested")
    return Sheet(
        title="does the effect depend on another experiment's arm?",
        columns=(
            "effect of",
            "metric",
            "by arm of",
            "in control",
            "in treatment",
            "interaction",
            "se",
            "p",
            "BY p",
        ),
        rows=rows,
        align="lllrrrrrr",
        notes=notes,
    )
