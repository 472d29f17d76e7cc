"""What a look records: plain frozen data that goes to the ledger, tables and reports alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from experiments_dagster.stats.records import Estimand

Role = Literal["primary", "success", "secondary", "guardrail"]
Family = Literal["success", "guardrail", "deterioration", "quality", "exploratory"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Effect(_Record):
    """One effect of one arm on one metric: a row of the table `effect_estimates`.

    `is_adjusted` tells CUPED from plain. Numbers are None unless `status` is ok; then `reason`
    holds the code of `stats.errors.REASONS`. `segment` and `level` say which part of the units,
    if not all. `p_adjusted` is the p-value corrected within its family by `correction`, and where
    that selects the result `selected_low` and `selected_high` are the interval that pays for having
    been selected (false coverage rate; normal quantiles). `interval`
    names the construction of the interval where it does not invert the test of `p_value`.
    """

    metric: str
    role: Role
    arm: str
    control: str
    estimand: Estimand
    is_adjusted: bool
    inference: str = "fixed_horizon"
    method: str
    variance_formula: str | None = None
    status: Literal["ok", "not_estimable"] = "ok"
    reason: str | None = None
    estimate: float | None = None
    std_error: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    confidence_level: float | None = None
    p_value: float | None = None
    control_mean: float | None = None
    treatment_mean: float | None = None
    n_control: int | None = None
    n_treatment: int | None = None
    interval: str | None = None
    segment: str | None = None
    level: str | None = None
    p_adjusted: float | None = None
    correction: str | None = None
    selected_low: float | None = None
    selected_high: float | None = None

    @property
    def is_relative(self) -> bool:
        """Whether the effect is a share of the control's value."""
        return self.estimand.startswith("relative")


class Adjustment(_Record):
    """What CUPED did for one metric and arm."""

    metric: str
    arm: str
    correlation: float | None
    variance_reduction: float
    dropped_covariates: tuple[str, ...]


class Boundary(_Record):
    """The sequential state of one hypothesis at one look.

    `kind` is `success` (two-sided) or `guardrail` (one-sided against its margin). `statistic` is
    on the z scale, positive in the desired direction; `limit_low` and `limit_high` are the
    repeated interval of the effect in its own units (relative where `is_relative`). With a
    confidence sequence a guardrail's `critical_value` is that of its one-sided sequence, `tuning`
    its g, and no alpha is spent by looking. `deterioration` is the one-sided confidence sequence
    of the undesired side, at its own level.

    `futility_bound` is where success has become unlikely; `beta_spent` what that has used of 1 -
    power. Ignoring it costs no type I error.
    """

    metric: str
    arm: str
    kind: Literal["success", "guardrail", "deterioration"]
    information: float
    information_fraction: float
    alpha: float
    alpha_spent_before: float
    alpha_spent: float
    critical_value: float | None
    nominal_level: float | None
    no_stop_reason: str | None
    statistic: float
    crossed: Literal["none", "desired", "undesired"]
    is_relative: bool
    limit_low: float | None
    limit_high: float | None
    margin: float | None = None
    tuning: float | None = None
    futility_bound: float | None = None
    beta_spent: float | None = None
    is_futile: bool = False


class Trust(_Record):
    """How far a result can be believed; shown beside it, never decides.

    `twyman_ratio` is |effect| over the spread that prior and noise allow; above
    `TWYMAN_LIMIT` it is too good to be true. `false_positive_risk_*` is the probability that a
    significant win is none, over the band of prior shares. `shrunk_estimate` is the lift drawn
    towards no effect by the prior.
    """

    metric: str
    arm: str
    prior: str
    prior_sd: float
    twyman_ratio: float
    is_suspicious: bool
    false_positive_risk_low: float
    false_positive_risk_high: float
    shrunk_estimate: float
    shrunk_std_error: float
    is_underpowered: bool


class Novelty(_Record):
    """The effect by day since exposure and its trend: does it wear off, or grow?

    `effects` and `std_errors` have one entry per day; `slope` is per day.
    """

    metric: str
    arm: str
    days: tuple[int, ...]
    effects: tuple[float, ...]
    std_errors: tuple[float, ...]
    slope: float
    slope_std_error: float
    slope_p_value: float
    early: float
    late: float
    contrast_p_value: float
    is_flagged: bool


class SegmentLevel(_Record):
    """How far the effect in one level is from that among all other units.

    Untested levels have a `reason` and no numbers.
    """

    level: str
    difference: float | None
    std_error: float | None
    p_value: float | None
    p_adjusted: float | None
    reason: str | None


class SegmentTest(_Record):
    """Whether the effect differs between the levels of one segment: Cochran's Q, and each level.

    `n_other_levels` counts levels beyond the largest ones, which are not shown but count in the
    correction.
    """

    segment: str
    metric: str
    arm: str
    q: float | None
    degrees_of_freedom: int | None
    p_value: float | None
    levels: tuple[SegmentLevel, ...]
    n_other_levels: int = 0


class AnytimeInterval(_Record):
    """The confidence sequence of a success metric's effect: valid whenever it is looked at."""

    metric: str
    arm: str
    g: float
    low: float
    high: float
    relative_low: float | None
    relative_high: float | None
    log_e_value: float
    p_value: float
    running_low: float | None
    running_high: float | None
    flag: str | None


class Check(_Record):
    """One health check at a look."""

    name: str
    passed: bool
    severity: Literal["WARN", "ERROR"]
    value: float | None
    threshold: float | None
    message: str

    @property
    def blocks(self) -> bool:
        """Whether it makes the look INVALID."""
        return not self.passed and self.severity == "ERROR"


class ArmDecision(_Record):
    """The verdict of one arm."""

    arm: str
    verdict: str
    clause: str
    reason: str
    missing: tuple[str, ...]
    is_harmful: bool


class Frozen(_Record):
    """What the first estimable look fixed, without regard to the effect, for all later ones.

    Args:
        baseline: Mean (or ratio) over all arms that the relative MDE refers to.
        planned_information: 1 / variance of the primary difference at the planned end, by arm.
        cap: Largest value that counts, or None.
    """

    baseline: float
    planned_information: dict[str, float]
    cap: float | None


class Look(_Record):
    """Everything that was seen at one look, and how to see it again.

    `look` is the ledger's number, None for an unplanned peek. `planned_index` counts planned
    looks, skipped ones included. `scores` is the hash of the file that keeps the influence scores
    of open-ended metrics.
    """

    experiment: str
    phase: int
    look: int | None
    planned_index: int
    is_planned_end: bool
    as_of: str
    horizon: str
    cutoff: int
    plan_hash: str
    code_version: str
    inputs: dict[str, str]
    frames: dict[str, str]
    n_exposed: dict[str, int]
    n_multi_arm: dict[str, int]
    n_mature: dict[str, int]
    frozen: Frozen | None
    effects: tuple[Effect, ...]
    adjustments: tuple[Adjustment, ...]
    boundaries: tuple[Boundary, ...]
    anytime: tuple[AnytimeInterval, ...]
    checks: tuple[Check, ...]
    log_e_sample_ratio: float
    log_e_by_level: dict[str, float] = {}
    information_fractions: dict[str, float] = {}
    segments: tuple[Effect, ...] = ()
    segment_tests: tuple[SegmentTest, ...] = ()
    sensitivity: tuple[Effect, ...] = ()
    deterioration: tuple[Boundary, ...] = ()
    trust: tuple[Trust, ...] = ()
    novelty: tuple[Novelty, ...] = ()
    scores: str | None = None
    decisions: tuple[ArmDecision, ...]
    arm: str
    verdict: str
    reason: str

    @property
    def look_id(self) -> str:
        """A name for people and commands, such as aa_grocery.1.12."""
        number = "peek" if self.look is None else str(self.look)
        return f"{self.experiment}.{self.phase}.{number}"

    @property
    def is_blocked(self) -> bool:
        """Whether a failed check forbids to publish a verdict."""
        return any(check.blocks for check in self.checks)

    def effect(self, metric: str, arm: str, estimand: str, *, adjusted: bool) -> Effect | None:
        """One effect, if there is such a row.

        Args:
            metric: Name of the metric.
            arm: The treatment arm.
            estimand: `difference` or `relative_difference`, of whatever the metric compares.
            adjusted: The adjusted effect or the plain one.
        """
        is_relative = estimand == "relative_difference"
        for row in self.effects:
            if (row.metric, row.arm, row.is_relative, row.is_adjusted) == (
                metric,
                arm,
                is_relative,
                adjusted,
            ):
                return row
        return None

    def anytime_of(self, arm: str, metric: str | None = None) -> AnytimeInterval | None:
        """The confidence sequence of an arm and metric, of the primary one by default."""
        if metric is None:
            metric = next((row.metric for row in self.effects if row.role == "primary"), None)
        found = (row for row in self.anytime if (row.metric, row.arm) == (metric, arm))
        return next(found, None)

    def boundary(self, metric: str, arm: str) -> Boundary | None:
        """The sequential state of one metric and arm."""
        found = (b for b in self.boundaries if (b.metric, b.arm) == (metric, arm))
        return next(found, None)


def is_finished(looks: Sequence[Look], arm: str) -> bool:
    """Whether an arm has had its last look: planned information reached, all alpha spent."""
    return any(
        row.information_fraction >= 1
        for look in looks
        for row in look.boundaries
        if row.arm == arm and row.kind == "success"
    )
