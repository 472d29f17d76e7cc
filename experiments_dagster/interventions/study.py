"""What every design without randomisation yields, and when its difference may be called an effect.

REFUSED         a refutation that blocks has failed
WEAK            a refutation that weakens has failed, one that is needed could not be run, or
                the interval of the first estimate includes 0
SUPPORTED       all refutations ran, none failed, and the interval excludes 0
NOT_ESTIMABLE   there is no estimate
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from experiments_dagster.stats.errors import EstimationError
from experiments_dagster.stats.records import CheckOutcome, Estimate

Status = Literal["SUPPORTED", "WEAK", "REFUSED", "NOT_ESTIMABLE"]
Value = str | int | float | bool | None
Draw = Callable[[int], str]
"""Width in pixels to SVG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyEstimate:
    """One number with its uncertainty, in the unit of the outcome unless `unit` says otherwise.

    `method` names estimator and error; limits are None where the interval is unbounded or there
    is none, `reason` then says why.
    """

    name: str
    method: str
    estimate: float
    std_error: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    confidence_level: float
    p_value: float | None = None
    unit: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, float) and not math.isfinite(value):
                msg = f"{self.name}: {item.name} is {value}; an estimate is finite or absent"
                raise ValueError(msg)

    @classmethod
    def of(cls, name: str, found: Estimate, *, method: str | None = None) -> StudyEstimate:
        """An estimate of `stats` or `causal` under a name for people."""
        return cls(
            name=name,
            method=method or f"{found.method}, {found.variance_formula}",
            estimate=found.estimate,
            std_error=found.std_error,
            ci_low=found.ci_low,
            ci_high=found.ci_high,
            confidence_level=found.confidence_level,
            p_value=found.p_value,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A refutation that could not be run. Without one that is `needed` the claim stays weak."""

    name: str
    reason: str
    needed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyTable:
    """Rows for the report, JSON and files; `name` is a word such as `donor_weights`."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                msg = f"{self.name}: {len(row)} values for {len(self.columns)} columns"
                raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A chart that draws itself for a width (780 wide, 400 on a phone)."""

    name: str
    caption: str
    draw: Draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What may be said, and the clauses that decide it.

    Of units that were randomised averages are effects, whatever becomes of a claim about something
    else, such as who responds.
    """

    status: Status
    clauses: tuple[str, ...]
    is_randomised: bool = False

    @property
    def term(self) -> str:
        """What the first estimate may be called."""
        if self.status == "SUPPORTED":
            return "effect"
        return "difference" if self.is_randomised else "association"


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A design applied to its data.

    Args:
        design: Its kind, as in the file.
        method: In words.
        estimand: What the first estimate is about, in words.
        facts: Name and value of what was read: units, periods, shares.
        assumptions: What has to hold and no data can show.
        estimates: The one that decides first; none with `reason`.
        refutations: Checks that ran; severity ERROR blocks the claim, WARN weakens it.
        skipped: Checks that could not be run.
        tables: Weights, balance, placebos and the like.
        pictures: Charts.
        warnings: What a reader should know besides.
        reason: Code of `stats.errors.REASONS` where nothing could be estimated.
        reason_detail: The same in words.
        is_randomised: The treatment was assigned at random, and no check of that failed.
    """

    design: str
    method: str
    estimand: str
    facts: tuple[tuple[str, str], ...]
    assumptions: tuple[str, ...]
    estimates: tuple[StudyEstimate, ...] = ()
    refutations: tuple[CheckOutcome, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    tables: tuple[StudyTable, ...] = ()
    pictures: tuple[Picture, ...] = ()
    warnings: tuple[str, ...] = ()
    reason: str | None = None
    reason_detail: str | None = None
    is_randomised: bool = False

    def __post_init__(self) -> None:
        if bool(self.estimates) == (self.reason is not None):
            msg = f"{self.design}: estimates or a reason, got {len(self.estimates)}, {self.reason}"
            raise ValueError(msg)
        names = [check.name for check in self.refutations] + [item.name for item in self.skipped]
        if len(set(names)) < len(names):
            msg = f"{self.design}: a refutation stands twice among {', '.join(names)}"
            raise ValueError(msg)

    @property
    def claim(self) -> Claim:
        """Whether the first estimate may be called an effect."""
        if not self.estimates:
            return Claim(status="NOT_ESTIMABLE", clauses=(self.reason_detail or str(self.reason),))
        failed = [check for check in self.refutations if not check.passed]
        blocking = [_clause(check) for check in failed if check.severity == "ERROR"]
        weak = [_clause(check) for check in failed if check.severity != "ERROR"]
        weak += [
            f"{item.name} could not be run: {item.reason}" for item in self.skipped if item.needed
        ]
        if not self.refutations:
            weak.append("nothing has tried to refute it")
        if not _excludes_zero(self.estimates[0]):
            weak.append(f"the interval of {self.estimates[0].name} includes 0 or is missing")
        status: Status = "REFUSED" if blocking else "WEAK" if weak else "SUPPORTED"
        return Claim(status=status, clauses=(*blocking, *weak), is_randomised=self.is_randomised)


@dataclass(slots=True)
class Refutations:
    """Collects checks; one that cannot be estimated is kept as skipped, with its reason."""

    ran: list[CheckOutcome] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def run(
        self, name: str, check: Callable[[], CheckOutcome], *, needed: bool = True
    ) -> CheckOutcome | None:
        """Run one check under its name."""
        try:
            outcome = check()
        except EstimationError as error:
            self.skip(name, str(error), needed=needed)
            return None
        self.ran.append(outcome)
        return outcome

    def skip(self, name: str, reason: str, *, needed: bool = True) -> None:
        """Note a check that cannot be run."""
        self.skipped.append(Skipped(name=name, reason=reason, needed=needed))


def study_document(study: Study) -> dict[str, Any]:
    """Everything but the pictures as plain data, ready for strict JSON."""
    claim = study.claim
    return {
        "design": study.design,
        "method": study.method,
        "estimand": study.estimand,
        "is_randomised": study.is_randomised,
        "status": "not_estimable" if study.reason else "ok",
        "reason": study.reason,
        "reason_detail": study.reason_detail,
        "claim": {"status": claim.status, "term": claim.term, "clauses": list(claim.clauses)},
        "facts": dict(study.facts),
        "assumptions": list(study.assumptions),
        "estimates": [_plain(item) for item in study.estimates],
        "refutations": [_plain(item) for item in study.refutations],
        "skipped": [_plain(item) for item in study.skipped],
        "tables": {
            table.name: [dict(zip(table.columns, row, strict=True)) for row in table.rows]
            for table in study.tables
        },
        "warnings": list(study.warnings),
    }


def table_of(
    name: str,
    title: str,
    rows: Sequence[Mapping[str, Value]],
    *,
    columns: Sequence[str] = (),
    note: str = "",
) -> StudyTable:
    """A table from rows with the same keys; `columns` where there may be no row."""
    names = tuple(columns) or tuple(rows[0])
    values = tuple(tuple(row[column] for column in names) for row in rows)
    return StudyTable(name=name, title=title, columns=names, rows=values, note=note)


def _clause(check: CheckOutcome) -> str:
    return f"{check.name}: {check.message}"


def _excludes_zero(found: StudyEstimate) -> bool:
    if found.ci_low is not None and found.ci_low > 0:
        return True
    return found.ci_high is not None and found.ci_high < 0


def _plain(record: Any) -> dict[str, Any]:
    return {item.name: getattr(record, item.name) for item in fields(record)}
