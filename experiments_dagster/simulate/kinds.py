"""The simulators by name, and how a few words of a command line become their parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from experiments_dagster.simulate import event_log, saas, user_level
from experiments_dagster.simulate.scenario import Scenario, ScenarioSpec

Values = dict[str, Any]
Effects = Sequence[tuple[str | None, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One simulator.

    Args:
        spec: Its parameters.
        defaults: Parameters that the name of the kind stands for.
        effects: Names of effects that can be asked for, with what they mean.
        apply: Puts effects into the parameters; a name of None is the one meant without a name.
        draw: Simulates.
    """

    spec: type[ScenarioSpec]
    defaults: Mapping[str, Any]
    effects: Mapping[str, str]
    apply: Callable[[Values, Effects], None]
    draw: Callable[[Any], Scenario]


USER_EFFECTS = {
    "sessions": ("sessions_lift", "relative"),
    "revenue_per_session": ("value_lift", "relative"),
    "conversion": ("conversion_lift", "absolute, of the conversion rate of a session"),
}


def _apply_to_users(values: Values, effects: Effects) -> None:
    kind = values["effect"]
    unnamed = user_level.LIFTS[kind] or {"sessions_lift": 0.0}
    if effects:  # what is asked for replaces what the kind stands for
        for field in user_level.MOVES["mixed"]:
            values.pop(field, None)
    for name, size in effects:
        for field in unnamed if name is None else [USER_EFFECTS[name][0]]:
            values[field] = size


def _apply_to_events(values: Values, effects: Effects) -> None:
    spec = event_log.EventLogSpec.model_validate(values)
    base = spec.variants[spec.control]
    changes: dict[str, float] = {}
    for name, size in effects:
        if name == "latency_ms":
            changes["latency_ms"] = base.latency_ms * (1 + size)
        else:
            changes["click_rate"] = base.click_rate + size
    values["variants"] = {
        arm: variant.model_dump() | (changes if arm != spec.control else {})
        for arm, variant in spec.variants.items()
    }


def _apply_to_saas(values: Values, effects: Effects) -> None:
    factors = dict(values.get("effect", {}))
    for name, size in effects:
        factors |= dict.fromkeys(saas.ARMS[1:] if name is None else [name], size)
    values["effect"] = factors


KINDS: dict[str, Kind] = {
    **{
        name: Kind(
            spec=user_level.UserLevelSpec,
            defaults={"effect": name, **lifts},
            effects={effect: meaning for effect, (_, meaning) in USER_EFFECTS.items()},
            apply=_apply_to_users,
            draw=user_level.simulate_users,
        )
        for name, lifts in user_level.LIFTS.items()
    },
    "ab-ml": Kind(
        spec=event_log.EventLogSpec,
        defaults={},
        effects={"clicked": "absolute, of the click rate", "latency_ms": "relative"},
        apply=_apply_to_events,
        draw=event_log.simulate_events,
    ),
    "saas": Kind(
        spec=saas.SaasSpec,
        defaults={},
        effects=dict.fromkeys(saas.ARMS[1:], "factor of the arm's effect function"),
        apply=_apply_to_saas,
        draw=saas.simulate_saas,
    ),
}


def make_spec(kind: str, given: Mapping[str, Any], effects: Sequence[str] = ()) -> ScenarioSpec:
    """The parameters of a scenario.

    Args:
        kind: One of `KINDS`.
        given: Parameters by name; None leaves a default in place.
        effects: Such as 0.05 or sessions=0.05.

    Raises:
        ValueError: Unknown kind, parameter or effect, or a value that does not fit.
    """
    if kind not in KINDS:
        msg = f"unknown kind {kind!r}; known: {', '.join(KINDS)}"
        raise ValueError(msg)
    chosen = KINDS[kind]
    values: Values = dict(chosen.defaults)
    values |= {name: value for name, value in given.items() if value is not None}
    unknown = [name for name in values if name not in chosen.spec.model_fields]
    if unknown:
        known = ", ".join(chosen.spec.model_fields)
        msg = f"{kind} has no parameter {unknown[0]!r}; it has {known}"
        raise ValueError(msg)
    for name, value in chosen.defaults.items():
        if name == "effect" and values[name] != value:
            msg = f"effect is {values[name]!r}; the kind says {value!r}, leave it out"
            raise ValueError(msg)
    try:
        if effects:
            chosen.apply(values, [_parse_effect(kind, text) for text in effects])
        return chosen.spec.model_validate(values)
    except ValidationError as error:
        raise ValueError(_in_words(kind, error)) from None


def simulate(kind: str, spec: ScenarioSpec) -> Scenario:
    """Draw the scenario of a kind."""
    return KINDS[kind].draw(spec)


def _parse_effect(kind: str, text: str) -> tuple[str | None, float]:
    name, equals, size = text.rpartition("=")
    known = KINDS[kind].effects
    if equals and name not in known:
        msg = f"--effect {text}: {kind} has no effect {name!r}; it has {', '.join(known)}"
        raise ValueError(msg)
    try:
        return (name if equals else None), float(size)
    except ValueError:
        msg = f"--effect {text}: must be a number or name=number"
        raise ValueError(msg) from None


def _in_words(kind: str, error: ValidationError) -> str:
    """One line per mistake: place, value, rule."""
    lines = []
    for item in error.errors(include_url=False):
        place = ".".join(str(part) for part in item["loc"])
        rule = item["msg"].removeprefix("Value error, ")
        is_plain = place and isinstance(item["input"], str | int | float)
        lines.append(f"{place} is {item['input']!r}: {rule}" if is_plain else rule)
    return f"{kind}: " + "; ".join(lines)
