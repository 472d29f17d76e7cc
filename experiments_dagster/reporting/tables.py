"""Markdown tables for the Dagster UI and for files, from look records.

The UI parses HTML inside markdown and then filters it; nothing here leans on that filter. Every
cell is escaped, so that a name with a pipe, a link or a tag shows as typed (F-118).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from experiments_dagster.looks.records import Boundary, Check, Effect, Look
from experiments_dagster.reporting.numbers import (
    DASH,
    alpha,
    clean_text,
    count,
    interval,
    level,
    lift,
    missing,
    moment,
    number,
    optional,
    p_value,
    share,
    signed,
)
from experiments_dagster.reporting.trajectory import anytime_of

WORD_JOINER = "\u2060"  # invisible; keeps a URL from becoming a link
_SPECIAL = re.compile(r"([\\`*\[\]|~])")
_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LINK = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp|javascript|data)(:)|\b(www)(\.)")


def escape_markdown(text: str) -> str:
    r"""Text that shows as typed in a markdown cell: no HTML, emphasis, code, cell or link.

    Examples:
        >>> escape_markdown("a < b & c | `d`")
        'a &lt; b &amp; c \\| \\`d\\`'
        >>> escape_markdown("conversion_7d rose by 2.5% (look 3)")
        'conversion_7d rose by 2.5% (look 3)'
    """
    plain = clean_text(text)
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    plain = _UNDERSCORE.sub(r"\\_", _SPECIAL.sub(r"\\\1", plain))
    return _LINK.sub(lambda m: f"{m[1] or m[3]}{WORD_JOINER}{m[2] or m[4]}", plain)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, align: str) -> str:
    """A table of escaped cells.

    Args:
        header: Column names.
        rows: Plain text, one value per column.
        align: One letter per column, `l` or `r`.

    Raises:
        ValueError: A row or `align` has another number of columns than the header.
    """
    lines = [_line(header)]
    lines.append("|" + "|".join("--:" if letter == "r" else ":--" for letter in align) + "|")
    for row in [align, *rows]:
        if len(row) != len(header):
            msg = f"{len(row)} cells for {len(header)} columns"
            raise ValueError(msg)
    lines += [_line(row) for row in rows]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(escape_markdown(cell) or DASH for cell in cells) + " |"


def verdict_table(rows: Sequence[Look]) -> str:
    """One line per experiment: the last look, its verdict and the arm that stands for it.

    The lift of an INVALID look is left out.
    """
    header = ("experiment", "look", "verdict", "arm", "lift", "sequential interval",
              "information", "why")  # fmt: skip
    return markdown_table(header, [_verdict_row(look) for look in rows], align="llllrrrl")


def _verdict_row(look: Look) -> list[str]:
    effect = _deciding(look)
    row = look.boundary(effect.metric, look.arm) if effect else None
    is_hidden = hides_effects(look)
    reason = effect.reason if effect else "IMMATURE"
    shown = optional(effect.estimate if effect else None, lift, reason)
    limits = None if is_hidden else sequential_interval(look, row, look.arm)
    return [
        look.experiment,
        "peek" if look.look is None else str(look.look),
        look.verdict,
        look.arm,
        missing("a health check failed") if is_hidden else shown,
        limits or DASH,
        share(row.information_fraction) if row else DASH,
        look.reason,
    ]


def hides_effects(look: Look) -> bool:
    """Whether effects must not be read: a blocking check failed, whatever clause decided."""
    return look.verdict == "INVALID" or any(check.blocks for check in look.checks)


def sequential_interval(look: Look, row: Boundary | None, arm: str) -> str | None:
    """The repeated interval of the lift, else the confidence sequence, named as such."""
    if row is not None and row.is_relative:
        found = interval(row.limit_low, row.limit_high, lift)
        if found:
            return found
    sequence = anytime_of(look, arm)
    if sequence is None:
        return None
    found = interval(sequence.relative_low, sequence.relative_high, lift)
    return f"{found} (confidence sequence)" if found else None


def _deciding(look: Look) -> Effect | None:
    """The primary lift of the look's arm; adjusted if there is such a row."""
    rows = [
        effect
        for effect in look.effects
        if (effect.role, effect.arm, effect.is_relative) == ("primary", look.arm, True)
    ]
    return max(rows, key=lambda effect: effect.is_adjusted, default=None)


def effects_table(look: Look) -> str:
    """Every effect of a look: difference and lift, adjusted and not, fixed-horizon intervals.

    The p-values hold only if this were the only look.
    """
    header = ("metric", "role", "arm", "estimand", "estimator", "control", "treatment",
              "estimate", "interval", "naive p", "n", "corrected p")  # fmt: skip
    rows = [_effect_row(effect) for effect in look.effects]
    width = len(header) if any(effect.p_adjusted is not None for effect in look.effects) else -1
    align = "lllllrrrrrrr"
    return markdown_table(header[:width], [row[:width] for row in rows], align=align[:width])


def _effect_row(effect: Effect) -> list[str]:
    shown = lift if effect.is_relative else signed
    limits = interval(effect.ci_low, effect.ci_high, shown)
    if limits and effect.confidence_level:
        limits = f"{limits} ({level(effect.confidence_level)})"
    units = DASH
    if effect.n_control is not None and effect.n_treatment is not None:
        units = f"{count(effect.n_control)} + {count(effect.n_treatment)}"
    return [
        effect.metric,
        effect.role,
        f"{effect.arm} vs {effect.control}",
        "lift" if effect.is_relative else "difference",
        f"{'adjusted' if effect.is_adjusted else 'unadjusted'}: {effect.method}",
        optional(effect.control_mean, number),
        optional(effect.treatment_mean, number),
        optional(effect.estimate, shown, effect.reason),
        limits or DASH,
        optional(effect.p_value, p_value),
        units,
        optional(effect.p_adjusted, p_value),
    ]


def checks_table(look: Look) -> str:
    """The health checks of a look, failed ones first."""
    ordered = sorted(look.checks, key=lambda check: (check.passed, not check.blocks))
    rows = [
        [check.name, check_state(check), optional(check.value, number),
         optional(check.threshold, number), check.message]
        for check in ordered
    ]  # fmt: skip
    return markdown_table(("check", "result", "value", "threshold", "message"), rows, align="llrrl")


def check_state(check: Check) -> str:
    """PASS, WARN or FAIL."""
    if check.passed:
        return "PASS"
    return "FAIL" if check.blocks else "WARN"


def ledger_table(looks: Sequence[Look]) -> str:
    """What each look spent and what it was held against, for every success hypothesis."""
    header = ["look", "as of", "arm", "information", "z", "critical value", "nominal level",
              "alpha spent", "of", "crossed", "verdict"]  # fmt: skip
    align = "lllrrrrrrll"
    found = [row for look in looks for row in look.boundaries if row.kind == "success"]
    names_metric = len({row.metric for row in found}) > 1
    if names_metric:
        header.insert(2, "metric")
        align = "l" + align
    rows = []
    for look in looks:
        own = [row for row in look.boundaries if row.kind == "success"]
        for row in own:
            cells = _ledger_row(look, row)
            rows.append([*cells[:2], row.metric, *cells[2:]] if names_metric else cells)
        if not own:
            name = "peek" if look.look is None else str(look.look)
            nothing = [DASH] * (len(header) - 3)
            rows.append([name, f"{moment(look.as_of, 'UTC')} UTC", *nothing, look.verdict])
    return markdown_table(header, rows, align=align)


def _ledger_row(look: Look, row: Boundary) -> list[str]:
    return [
        "peek" if look.look is None else str(look.look),
        f"{moment(look.as_of, 'UTC')} UTC",
        row.arm,
        share(row.information_fraction),
        number(row.statistic, signed=True),
        optional(row.critical_value, number, row.no_stop_reason),
        optional(row.nominal_level, p_value),
        alpha(row.alpha_spent),
        alpha(row.alpha),
        crossed_words(row),
        look.verdict,
    ]


def crossed_words(row: Boundary) -> str:
    """Whether a boundary was crossed, and which way."""
    if row.crossed == "none":
        return "futility" if row.is_futile else "no"
    return {"desired": "yes, better", "undesired": "yes, worse"}[row.crossed]
