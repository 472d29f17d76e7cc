"""Numbers and words as people read them: the one place where reports format anything.

Three significant digits, a real minus sign, thousands separators. What is absent is an en dash
with its reason, never 0. Input is finite or None; anything else is a bug and raises.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable
from zoneinfo import ZoneInfo

from experiments_dagster.stats.errors import REASONS

DASH, MINUS = "–", "−"
SIGNIFICANT_DIGITS = 3
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
LOOK_REASONS = {
    "NO_STOP_AT_THIS_LOOK": "too early: the alpha to spend is still below 1e-14",
    "INFORMATION_DECREASED": "no more information than at an earlier look",
}
CORRECTIONS = {
    "bonferroni": "Bonferroni",
    "holm": "Holm",
    "hochberg": "Hochberg",
    "bh": "Benjamini-Hochberg",
    "by": "Benjamini-Yekutieli",
}
_SMALLEST_P, _SMALLEST_ALPHA = 0.001, 0.0001
_SMALLEST_PLAIN, _LARGEST_PLAIN = 1e-4, 1e15
_LARGEST_PLAIN_E = 1e6
_RARE = 0.2  # from 1 in 5 on, halves tell more than whole numbers
# Control characters are illegal in XML; direction overrides make text read as something else.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]+"
)

Format = Callable[[float], str]


def clean_text(text: str) -> str:
    """Text on one line without control characters; it still needs escaping."""
    return _UNPRINTABLE.sub(" ", text).strip()


def number(value: float, *, signed: bool = False) -> str:
    """Three significant digits, such as 1,234 or 0.0123 or −4.50.

    Examples:
        >>> number(1234.5), number(0.01234), number(4.5, signed=True), number(0.0)
        ('1,234', '0.0123', '+4.50', '0')
    """
    if not math.isfinite(value):
        msg = f"{value} is no number to show; pass None with a reason"
        raise ValueError(msg)
    if value == 0:
        return "0"
    size = abs(value)
    if not _SMALLEST_PLAIN <= size < _LARGEST_PLAIN:
        text = re.sub(r"e([+-])0*", r"e\1", f"{size:.{SIGNIFICANT_DIGITS - 1}e}")
    else:
        # Rounded first, so that 9.996 becomes 10.0 and not 10.00.
        rounded = float(f"{size:.{SIGNIFICANT_DIGITS}g}")
        decimals = max(0, SIGNIFICANT_DIGITS - 1 - math.floor(math.log10(rounded)))
        text = f"{size:,.{decimals}f}"
    if value < 0:
        return MINUS + text
    return f"+{text}" if signed else text


def lift(value: float) -> str:
    """A relative effect, such as +12.3%.

    Examples:
        >>> lift(0.1234), lift(-0.002), lift(0.0)
        ('+12.3%', '−0.200%', '0%')
    """
    return number(100 * value, signed=True) + "%"


def share(value: float) -> str:
    """A share without sign, such as 47.1%; round ones stay round: 50%."""
    percent = 100 * value
    is_round = abs(percent - round(percent)) < 1e-9 and percent < 10**SIGNIFICANT_DIGITS  # noqa: PLR2004
    return (f"{percent:.0f}" if is_round else number(percent)) + "%"


def declared(value: float) -> str:
    """A relative effect that somebody wrote down: no digits are added, such as +5%."""
    percent = f"{100 * value:+.6g}%".replace("-", MINUS)
    return "0%" if value == 0 else percent


def probability(value: float) -> str:
    """A probability that is never rounded to certainty."""
    if value > 1 - _SMALLEST_P:
        return "> 99.9%"
    return "< 0.1%" if value < _SMALLEST_P else share(value)


def one_in(value: float) -> str:
    """A probability as a frequency, such as 1 in 8.

    Examples:
        >>> one_in(0.1233), one_in(0.4)
        ('1 in 8', '1 in 2.5')
    """
    return f"1 in {1 / value:.0f}" if value < _RARE else f"1 in {1 / value:.2g}"


def points(value: float) -> str:
    """A difference of two shares in percentage points."""
    return number(100 * value, signed=True) + " pp"


def signed(value: float) -> str:
    """A difference, with its sign."""
    return number(value, signed=True)


def tick(value: float, shown: Format) -> str:
    """A round value on an axis: without the zeros that significant digits would add.

    Examples:
        >>> tick(0.1, lift), tick(-2.5, signed), tick(0.0, signed)
        ('+10%', '−2.5', '0')
    """
    words = shown(value)
    unit = next((tail for tail in (" pp", "%") if words.endswith(tail)), "")
    digits = words.removesuffix(unit)
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) + unit


def count(value: int) -> str:
    """A number of units, such as 12,345."""
    return f"{value:,d}"


def p_value(value: float) -> str:
    """A p-value: three significant digits, or < 0.001.

    Examples:
        >>> p_value(0.0496), p_value(1e-9), p_value(1.0)
        ('0.0496', '< 0.001', '1.00')
    """
    return "< 0.001" if value < _SMALLEST_P else number(value)


def alpha(value: float) -> str:
    """Spent alpha: exact where it can be read, < 0.0001 where it is tiny."""
    if 0 < value < _SMALLEST_ALPHA:
        return "< 0.0001"
    return f"{value:.{SIGNIFICANT_DIGITS}g}"


def e_value(log_e: float) -> str:
    """An e-value from its natural logarithm; large ones as a power of ten."""
    if abs(log_e) > math.log(_LARGEST_PLAIN_E):
        power = f"{log_e / math.log(10):.1f}"
        return "10^" + power.replace("-", MINUS)
    return number(math.exp(log_e))


def level(value: float) -> str:
    """A confidence level, such as 95% or 97.5%."""
    return f"{100 * value:.4g}%"


def interval(low: float | None, high: float | None, shown: Format) -> str | None:
    """Both limits, or None where one is absent."""
    if low is None or high is None:
        return None
    return f"{shown(low)} to {shown(high)}"


def optional(value: float | None, shown: Format, reason: str | None = None) -> str:
    """The number, or an en dash with the reason it is absent."""
    return missing(reason) if value is None else shown(value)


def missing(reason: str | None) -> str:
    """An en dash and why, in words where the code is known."""
    words = reason_words(reason)
    return f"{DASH} ({words})" if words else DASH


def reason_words(reason: str | None) -> str:
    """What a reason code means; a code that is not known stands for itself."""
    if not reason:
        return ""
    return REASONS.get(reason) or LOOK_REASONS.get(reason) or reason


def day(date: dt.date, *, year: bool = True) -> str:
    """A date in words that no locale changes, such as 12 Sep 2017."""
    text = f"{date.day} {MONTHS[date.month - 1]}"
    return f"{text} {date.year}" if year else text


def moment(instant: str, zone: str) -> str:
    """An ISO instant in a time zone, such as 12 Sep 2017, 00:00."""
    local = dt.datetime.fromisoformat(instant).astimezone(ZoneInfo(zone))
    return f"{day(local.date())}, {local:%H:%M}"


def local_date(instant: str, zone: str) -> dt.date:
    """The day of an ISO instant in a time zone."""
    return dt.datetime.fromisoformat(instant).astimezone(ZoneInfo(zone)).date()


def sentence(words: str) -> str:
    """A capital letter, unless a name comes first, and one full stop."""
    first = words.split(" ", 1)[0]
    is_name = "_" in first or first.endswith(":")
    text = words if is_name else words[:1].upper() + words[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."


def plural(number_of: int, noun: str, several: str | None = None) -> str:
    """A count with its noun, such as 1 unit and 2 units."""
    return f"{count(number_of)} {noun if number_of == 1 else several or f'{noun}s'}"
