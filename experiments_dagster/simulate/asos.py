"""Real experiments as a warehouse reports them: the ASOS Digital Experiments Dataset.

The file holds moments of control and one variant side by side, cumulative from the start of the
experiment to `time_since_start` (days, in steps of half a day). Dates are not published, so that
every experiment starts on `START` here. The four metrics are counted from exposure to now for all
users so far: open-ended, which a group-sequential plan may use only on a declared assumption.

References:
    Liu, Cardoso, Couturier & McCoy 2021, Datasets for Online Controlled Experiments,
    https://osf.io/64jsb/, CC BY 4.0; see data/SOURCE.txt.
"""

from __future__ import annotations

import datetime as dt
import textwrap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

FILE = Path(__file__).parent / "data" / "asos_half.parquet"
SOURCE = "moments"
START = dt.date(2020, 1, 6)
ARMS = {"control": "c", "treatment": "t"}
METRICS = ("metric_1", "metric_2", "metric_3", "metric_4")
ALPHA = 0.05
# One for all, chosen for being round and small: a retailer acts on one percent. No effect in the
# file was looked at.
MDE = 0.01

PLATFORM = f"""\
# The ASOS experiments: moments that a warehouse aggregated, one row per arm, metric and time.
schema_version: 1
storage: storage
timezone: UTC
sources:
  {SOURCE}:
    kind: summaries
    path: incoming/{SOURCE}/*.parquet
    columns:
      experiment: experiment
      variant: variant
      metric: metric
      timestamp: taken_at
      n: n
      mean: mean
      variance: variance
"""

METRICS_FILE = """\
# The four metrics that the dataset has for every experiment; it does not say what they are. Each
# counts what all users so far have done until now, so that a user's value may still change.
schema_version: 1
metrics:
""" + "".join(f"  {name}: {{kind: summary, cohorts: open_ended}}\n" for name in METRICS)


@dataclass(frozen=True, slots=True, kw_only=True)
class AsosExperiment:
    """One variant against its control.

    `first_look` and `last_look` are the days on which the first and the last row are known whole;
    `last_row_day` is the day of the last row.
    """

    experiment: str
    variant: int
    first_look: dt.date
    last_look: dt.date
    last_row_day: dt.date

    @property
    def slug(self) -> str:
        """The name of its file."""
        return slug_of(self.experiment, self.variant)

    @property
    def n_looks(self) -> int:
        """One look a day."""
        return (self.last_look - self.first_look).days + 1

    @property
    def yaml(self) -> str:
        """The experiment as a file in configs/experiments/."""
        design = (
            f"kind: group_sequential, spending: obrien_fleming, planned: {self.n_looks}, "
            "assume_independent_increments: true"
        )
        text = f"""\
            # ASOS experiment {self.experiment}, variant {self.variant} against control.
            schema_version: 1
            owner: team:asos
            hypothesis: {{primary: "Variant {self.variant} changes one of the four metrics"}}
            variants: {{control: 0.5, treatment: 0.5}}
            salt: {self.slug}
            window: {{start: {START}, end: {self.last_row_day}}}
            metrics:
              primary: {{metric: {METRICS[0]}}}
              success: [{", ".join(METRICS[1:])}]
            plan:
              alpha: {ALPHA}    # over the four metrics together
              power: 0.8
              mde: {MDE}
              estimator: {{kind: unadjusted}}
              looks:
                schedule: daily
                first: {self.first_look}
                # Open-ended metrics: nobody knows whether increments are independent.
                design: {{{design}}}
            """
        return textwrap.dedent(text)


def slug_of(experiment: str, variant: int) -> str:
    """The name of one variant's experiment here."""
    return f"asos-{experiment}-{variant}"


class Asos:
    """The file, read once."""

    @cached_property
    def wide(self) -> pl.DataFrame:
        """All rows as published, with slug, metric name and `taken_at`."""
        half_days = (pl.col("time_since_start") * 2).round().cast(pl.Int64)
        start = pl.lit(START).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        return (
            pl.read_parquet(FILE)
            .with_columns(
                slug=pl.format("asos-{}-{}", "experiment_id", "variant_id"),
                metric=pl.format("metric_{}", "metric_id"),
                taken_at=start + pl.duration(hours=12 * half_days),
            )
            .sort("slug", "metric", "taken_at")
        )

    @cached_property
    def usable(self) -> pl.DataFrame:
        """Rows whose variances are known and above zero, with z and information of the difference.

        z is the difference over its standard error; information is 1 over its variance.
        """
        has_variance = pl.all_horizontal(pl.col("variance_c", "variance_t") > 0)
        variance = pl.col("variance_c") / pl.col("count_c") + pl.col("variance_t") / pl.col(
            "count_t"
        )
        difference = pl.col("mean_t") - pl.col("mean_c")
        return self.wide.filter(has_variance).with_columns(
            z=difference / variance.sqrt(), information=1 / variance
        )

    @property
    def n_dropped(self) -> int:
        """Rows without a variance, which say nothing about an effect."""
        return self.wide.height - self.usable.height

    @cached_property
    def rows(self) -> pl.DataFrame:
        """One row per experiment, arm, metric and time, as the source of summaries reads them."""
        arms = [
            self.usable.select(
                pl.col("slug").alias("experiment"),
                pl.lit(arm).alias("variant"),
                "metric",
                "taken_at",
                pl.col(f"count_{suffix}").cast(pl.Int64).alias("n"),
                pl.col(f"mean_{suffix}").alias("mean"),
                pl.col(f"variance_{suffix}").alias("variance"),
            )
            for arm, suffix in ARMS.items()
        ]
        return pl.concat(arms).sort("experiment", "metric", "taken_at", "variant")

    @cached_property
    def experiments(self) -> tuple[AsosExperiment, ...]:
        """Every variant with its calendar, by slug."""
        spans = self.usable.group_by("slug", "experiment_id", "variant_id").agg(
            pl.col("taken_at").min().alias("first"), pl.col("taken_at").max().alias("last")
        )
        return tuple(
            AsosExperiment(
                experiment=row["experiment_id"],
                variant=row["variant_id"],
                first_look=_day_after(row["first"]),
                last_look=_day_after(row["last"]),
                last_row_day=row["last"].date(),
            )
            for row in spans.sort("slug").iter_rows(named=True)
        )

    @cached_property
    def daily(self) -> pl.DataFrame:
        """The usable row that each daily look reads: the newest at 00:00 of `day`."""
        day = (pl.col("taken_at") - pl.duration(microseconds=1)).dt.date() + pl.duration(days=1)
        return (
            self.usable.with_columns(day=day)
            .unique(["slug", "metric", "day"], keep="last", maintain_order=True)
            .sort("slug", "metric", "day")
        )


def write_project(folder: Path, asos: Asos) -> None:
    """Write configs/ of the demo; files that exist are left as they are."""
    files = {"platform.yaml": PLATFORM, "metrics.yaml": METRICS_FILE}
    files |= {f"experiments/{item.slug}.yaml": item.yaml for item in asos.experiments}
    for name, text in files.items():
        path = folder / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(text)


def _day_after(instant: dt.datetime) -> dt.date:
    """The first day whose 00:00 is not before an instant."""
    whole = dt.datetime.combine(instant.date(), dt.time(), instant.tzinfo)
    return instant.date() if instant == whole else instant.date() + dt.timedelta(days=1)
