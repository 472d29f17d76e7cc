"""The project of the benchmarks: one shop, one experiment or many, written where they run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.clock import EVENTS
from experiments_dagster.config.project import Project, load_project
from experiments_dagster.config.resolve import Experiment

PLATFORM = """\
schema_version: 1
storage: store
timezone: UTC
memory_limit: {memory}
threads: 2
sources:
  events:
    kind: events
    path: incoming/events/*
    columns: {{unit: user_id, timestamp: ts, event: event, event_id: event_id, value: value}}
    value_decimals: 2
    timezone: UTC
  exposures:
    kind: exposures
    path: incoming/exposures/*
    columns: {{unit: user_id, timestamp: ts, experiment: experiment, variant: variant}}
    timezone: UTC
    properties: {properties}
"""
METRICS = """\
schema_version: 1
metrics:
  revenue: {{kind: mean, event: purchase, window_days: {days}}}
  conversion: {{kind: proportion, event: purchase, window_days: {days}}}
  clicks: {{kind: count, event: click, window_days: {days}}}
  views: {{kind: count, event: view, window_days: {days}}}
  revenue_per_cart:
    kind: ratio
    numerator: {{event: purchase}}
    denominator: {{event: cart, aggregate: count}}
    window_days: {days}
"""
EXPERIMENT = """\
schema_version: 1
owner: team:growth
hypothesis: {{primary: "More revenue"}}
variants: {variants}
salt: salt-of-{slug}-0123456789
window: {{start: 2026-01-19, end: 2026-02-16}}
metrics:
  primary: {{metric: revenue, minimum_effect: 0.02}}
  secondary: [conversion, clicks, views, revenue_per_cart]
segments: {segments}
plan:
  mde: 0.05
  estimator: {estimator}
  looks: {{schedule: daily, first: 2026-01-20, design: {{kind: confidence_sequence}}}}
"""
THREE_ARMS = "{control: 0.333333333333, bold: 0.333333333333, plain: 0.333333333334}"
TWO_ARMS = "{control: 0.5, bold: 0.5}"
ESTIMATORS = {"cuped": "{kind: cuped, covariate_days: 14}", "unadjusted": "{kind: unadjusted}"}


def write_project(
    folder: Path,
    slugs: list[str],
    *,
    variants: str = THREE_ARMS,
    estimator: str = "cuped",
    days: int = 14,
    memory: str = "1GB",
    segments: str = "[]",
) -> Project:
    """Write configs/ and the folders for incoming files, and load the project."""
    configs = folder / "configs"
    (configs / "experiments").mkdir(parents=True, exist_ok=True)
    for source in ("events", "exposures"):
        (folder / "incoming" / source).mkdir(parents=True, exist_ok=True)
    properties = "{device: device}" if segments != "[]" else "{}"
    (configs / "platform.yaml").write_text(PLATFORM.format(memory=memory, properties=properties))
    (configs / "metrics.yaml").write_text(METRICS.format(days=days))
    for slug in slugs:
        text = EXPERIMENT.format(
            slug=slug, variants=variants, estimator=ESTIMATORS[estimator], segments=segments
        )
        (configs / "experiments" / f"{slug}.yaml").write_text(text)
    return load_project(folder)


def experiment_of(estimator: str) -> Experiment:
    """The experiment `checkout` alone."""
    with tempfile.TemporaryDirectory() as folder:
        project = write_project(Path(folder), ["checkout"], estimator=estimator)
        return project.experiments["checkout"]


def wide_experiment(*, metrics: int, segments: int) -> Experiment:
    """`checkout` with so many metrics (of four events, over 1, 2, ... days) and segments."""
    names = [f"metric_{k:02d}" for k in range(metrics)]
    lines = [
        f"  {name}: {{kind: count, event: {EVENTS[k % 4]}, window_days: {1 + k // 4}}}"
        for k, name in enumerate(names)
    ]
    listed = ", ".join(segment_names(segments))
    properties = ", ".join(f"{name}: {name}" for name in segment_names(segments))
    text = EXPERIMENT.format(
        slug="checkout",
        variants=THREE_ARMS,
        estimator=ESTIMATORS["unadjusted"],
        segments=f"[{listed}]",
    )
    text = text.replace("metric: revenue,", f"metric: {names[0]},")
    text = text.replace(
        "[conversion, clicks, views, revenue_per_cart]", f"[{', '.join(names[1:])}]"
    )
    platform = PLATFORM.format(memory="1GB", properties=f"{{{properties}}}")
    with tempfile.TemporaryDirectory() as folder:
        configs = write_project(Path(folder), []).folder / "configs"
        (configs / "platform.yaml").write_text(platform)
        (configs / "metrics.yaml").write_text("schema_version: 1\nmetrics:\n" + "\n".join(lines))
        (configs / "experiments" / "checkout.yaml").write_text(text)
        return load_project(Path(folder)).experiments["checkout"]


def segment_names(n: int) -> list[str]:
    """Names of so many segments."""
    return [f"segment_{k:02d}" for k in range(n)]
