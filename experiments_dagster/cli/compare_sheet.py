"""What `experiments compare` shows to people: one table of effects, and one per further request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from experiments_dagster.cli.compare_request import Request
from experiments_dagster.cli.compare_rows import Row
from experiments_dagster.cli.output import Sheet
from experiments_dagster.cli.sample_ratio import sample_ratio_line
from experiments_dagster.reporting.numbers import (
    MINUS,
    clean_text,
    count,
    interval,
    level,
    lift,
    number,
    p_value,
    points,
    reason_words,
    share,
    signed,
)

Format = Callable[[float], str]

EFFECTS = {
    "difference": "difference",
    "relative_difference": "lift",
    "quantile_difference": "difference",
    "relative_quantile_difference": "lift",
    "log_mean_difference": "of ln(1 + y)",
    "trimmed_mean_difference": "trimmed mean",
    "probability_of_superiority": "P(T > C) - 1/2",
}
MEANS = {"log_mean_difference": "mean log", "trimmed_mean_difference": "trimmed"}
WIDEST_NAME = 24


def sheets_of(request: Request, document: dict[str, Any]) -> list[Sheet]:
    """The tables of a document of `compare_file`."""
    sheets = [_effects(request, document["estimates"], sample_ratio_line(document["sample_ratio"]))]
    if "margin_tests" in document:
        sheets.append(_margins(request, document["margin_tests"]))
    if "effect_sizes" in document:
        sheets.append(_effect_sizes(document["effect_sizes"]))
    return sheets


def _effects(request: Request, rows: list[Row], sample_ratio: str) -> Sheet:
    unit = "clusters" if request.cluster and request.kind != "quantile" else "units"
    show_mean = share if request.kind == "proportion" else number
    lines = [_control_line(request, rows, show_mean)]
    previous = None
    for row in rows:
        arm = ("", "", "")
        if row["treatment"] != previous:
            arm = (_name(row["treatment"]), *_arm_cells(row, "treatment", show_mean))
        lines.append((*arm, *_effect_cells(request, row)))
        if row.get("p_adjusted") is not None:
            lines.append(("", "", "", *_simultaneous_cells(request, row)))
        previous = row["treatment"]
    return Sheet(
        title=_title(request),
        columns=(
            *("arm", unit, MEANS.get(rows[0]["estimand"], _mean_name(request)), "effect", "method"),
            *("estimate", "std. error", f"{level(1 - request.alpha)} interval", "p"),
        ),
        rows=[tuple(map(_plain, line)) for line in lines],
        align="lrrllrrrr",
        notes=[_plain(note) for note in (*_notes(rows), clean_text(sample_ratio))],
    )


def _title(request: Request) -> str:
    columns = list(request.columns.values())
    kind = _mean_name(request)
    about = "conversion" if kind == "share" else kind
    text = f"{about} of {' / '.join(columns)}"
    if request.covariates:
        text += f", adjusted by {', '.join(request.covariates)}"
    if request.strata:
        text += f", in strata of {request.strata}"
    if request.cluster:
        text += f", clusters of {request.cluster}"
    return clean_text(text)


def _mean_name(request: Request) -> str:
    if request.kind == "quantile":
        return f"p{100 * (request.quantile or 0):g}"
    return {"proportion": "share"}.get(request.kind, request.kind)


def _control_line(request: Request, rows: list[Row], show: Format) -> tuple[str, ...]:
    row = next((row for row in rows if row["status"] == "ok"), None)
    cells = ("", "") if row is None else _arm_cells(row, "control", show)
    return (_name(request.control), *cells, "control", "", "", "", "", "")


def _arm_cells(row: Row, arm: str, show: Format) -> tuple[str, str]:
    if row["status"] != "ok":
        return "", ""
    return count(row[f"n_{arm}"]), show(row[f"{arm}_mean"])


def _effect_cells(request: Request, row: Row) -> tuple[str, ...]:
    effect = EFFECTS[row["estimand"]]
    if row["status"] != "ok":
        return effect, row["method"], "-", "", reason_words(row["reason"]), "-"
    show, show_error = _formats(request, row["estimand"])
    limits = _limits(row["ci_low"], row["ci_high"], show)
    if row["p_value"] is None and row["interval"] == row["method"]:
        return "", row["method"], "", "", limits, "-"
    return (
        effect,
        _method(row),
        show(row["estimate"]),
        show_error(row["std_error"]),
        limits,
        "-" if row["p_value"] is None else p_value(row["p_value"]),
    )


def _simultaneous_cells(request: Request, row: Row) -> tuple[str, ...]:
    show, _ = _formats(request, row["estimand"])
    limits = _limits(row["simultaneous_ci_low"], row["simultaneous_ci_high"], show)
    return "", "dunnett", "", "", limits, p_value(row["p_adjusted"])


def _formats(request: Request, estimand: str) -> tuple[Format, Format]:
    """How to show an effect, and its standard error."""
    if estimand.startswith("relative"):
        return lift, lambda value: number(100 * value) + "%"
    if request.kind == "proportion":
        return points, lambda value: number(100 * value) + " pp"
    return signed, number


def _method(row: Row) -> str:
    method, formula = str(row["method"]), str(row["variance_formula"])
    return method if formula == method else f"{method}, {formula}"


def _limits(low: float | None, high: float | None, show: Format) -> str:
    both = interval(low, high, show)
    if both is not None:
        return both
    if low is None and high is None:
        return "unbounded"
    return f"above {show(low)}" if low is not None else f"below {show(high)}"  # type: ignore[arg-type]


def _notes(rows: list[Row]) -> list[str]:
    """Sentences below the table, each once."""
    notes: list[str] = []
    for row in rows:
        arm = row["treatment"]
        if row["status"] != "ok":
            notes.append(f"arm {arm}, {EFFECTS[row['estimand']]}: not estimable: {row['detail']}")
            continue
        if row["interval"] not in {None, row["method"]}:
            notes.append(f"{row['method']}: interval by {row['interval']}")
        if "replicates" in row:
            notes.append(f"{row['replicates']:,} replicates, seed {row['seed']}")
        if "trim" in row:
            notes.append(f"trimmed by {share(row['trim'])} at each end of each arm")
        if row.get("variance_reduction") is not None:
            notes.append(f"arm {arm}: {_saved(row['variance_reduction'])} by adjustment")
        if row.get("dropped_covariates"):
            dropped = ", ".join(row["dropped_covariates"])
            notes.append(f"arm {arm}: left out, constant or collinear: {dropped}")
    return list(dict.fromkeys(notes))


def _saved(reduction: float) -> str:
    kind = "removed" if reduction >= 0 else "added"
    return f"variance {kind} {share(abs(reduction))}"


def _margins(request: Request, rows: list[Row]) -> Sheet:
    is_relative = request.margin_scale == "relative"
    show = lift if is_relative else signed
    size = (share if is_relative else number)(request.margin or 0)
    if request.direction is None:
        title = f"equivalence: is the effect within {size} on either side?"
        columns = ("arm", "estimate", f"{level(1 - 2 * request.alpha)} interval", "p", "equivalent")
        body = [
            (
                show(row["estimate"]),
                _limits(row["ci_low"], row["ci_high"], show),
                p_value(row["p_value"]),
                "yes" if row["is_equivalent"] else "not shown",
            )
            if row["status"] == "ok"
            else ("-", reason_words(row["reason"]), "-", "-")
            for row in rows
        ]
    else:
        harm = "lower" if request.direction == "increase" else "higher"
        title = f"non-inferiority: is the treatment at most {size} {harm}?"
        columns = ("arm", "estimate", f"{level(1 - request.alpha)} bound", "p", "non-inferior")
        body = [
            (
                show(row["estimate"]),
                "unbounded" if row["bound"] is None else show(row["bound"]),
                p_value(row["p_value"]),
                "yes" if row["is_non_inferior"] else "not shown",
            )
            if row["status"] == "ok"
            else ("-", reason_words(row["reason"]), "-", "-")
            for row in rows
        ]
    return Sheet(
        title=title,
        columns=columns,
        rows=[
            (_name(row["treatment"]), *map(_plain, cells))
            for row, cells in zip(rows, body, strict=True)
        ],
        align="lrrrl",
    )


def _effect_sizes(rows: list[Row]) -> Sheet:
    names = ("cohen_d", "hedges_g", "glass_delta", "cohen_h")
    shown = [name for name in names if any(name in row for row in rows)]
    return Sheet(
        title="effect sizes",
        columns=("arm", *shown),
        rows=[
            (
                _name(row["treatment"]),
                *(_plain(signed(row[name])) if name in row else "-" for name in shown),
            )
            for row in rows
        ],
        align="l" + "r" * len(shown),
        notes=[row["detail"] for row in rows if row["status"] != "ok"],
    )


def _name(arm: str) -> str:
    text = clean_text(arm)
    return text if len(text) <= WIDEST_NAME else text[: WIDEST_NAME - 1] + "…"


def _plain(text: str) -> str:
    """A hyphen for the minus, so that a number can be copied into other programs."""
    return text.replace(MINUS, "-")
