"""`experiments init`: a project of one's own from files that exist.

Column names and types are guessed, and every guess is written down in YAML that says so. What
cannot be guessed from data, the shares that the experiment was configured with, is set equal:
if that is wrong, the sample-ratio check says so instead of hiding it.
"""

from __future__ import annotations

import datetime as dt
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from experiments_dagster.config.project import load_project
from experiments_dagster.storage.atomic import write_bytes
from experiments_dagster.storage.duck import quote_name, quote_text

UNIT_NAMES = (
    "user_id", "unit", "unit_id", "user", "customer_id", "household_id", "visitor_id", "client_id",
    "device_id", "profile_id", "account_id", "member_id", "anonymous_id", "uid",
)  # fmt: skip
TIME_NAMES = (
    "timestamp", "occurred_at", "event_time", "event_timestamp", "exposed_at", "first_exposed_at",
    "ts", "time", "created_at", "received_at", "date", "day",
)  # fmt: skip
EVENT_NAMES = ("event", "event_name", "event_type", "action", "type", "name")
EVENT_ID_NAMES = ("event_id", "message_id", "insert_id", "uuid", "id")
VALUE_NAMES = (
    "value", "revenue", "amount", "price", "sales_value", "sales", "spend", "total", "order_value",
)  # fmt: skip
EXPERIMENT_NAMES = ("experiment", "experiment_id", "experiment_name", "experiment_key", "test")
VARIANT_NAMES = ("variant", "variation", "variant_id", "variation_id", "arm", "group", "bucket")
CONTROL_NAMES = ("control", "baseline", "holdout", "off", "a", "0", "default")
SUCCESS = re.compile(
    r"purchase|order|convert|conversion|subscri|signup|sign_up|buy|pay", re.IGNORECASE
)
MAX_EVENTS = 5
WORKSPACE = """\
load_from:
  - python_module:
      module_name: experiments_dagster.definitions
      location_name: experiments_dagster
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Input:
    """One kind of input: where it lies, its column types, and which column plays which role."""

    paths: list[Path]
    pattern: str
    types: dict[str, str]
    roles: dict[str, str]

    @property
    def reader(self) -> str:
        files = ", ".join(quote_text(str(path)) for path in self.paths)
        function = "read_parquet" if self.paths[0].suffix in (".parquet", ".pq") else "read_csv"
        return f"{function}([{files}])"

    def column(self, role: str) -> str:
        return quote_name(self.roles[role])


def make_project(
    folder: Path, events: Sequence[Path], exposures: Sequence[Path], timezone: str
) -> list[tuple[Path, str]]:
    """Write configs/, workspace.yaml and .gitignore, and load what was written.

    Returns:
        Each written file with a remark.

    Raises:
        ValueError: A file is missing or a column cannot be guessed; nothing is written then.
        FileExistsError: The folder has configs/ already.
        ConfigError: What was written does not validate (the files are kept, to be mended).
    """
    folder = folder.resolve()
    if (folder / "configs").exists():
        msg = f"{folder / 'configs'} exists already; init never overwrites"
        raise FileExistsError(msg)
    if not events or not exposures:
        msg = "give your files: --events FILE --exposures FILE (Parquet or CSV)"
        raise ValueError(msg)
    event_input = _inspect(folder, events, _event_roles)
    exposure_input = _inspect(folder, exposures, _exposure_roles)
    facts = _Facts(event_input, exposure_input)
    documents = {
        "configs/platform.yaml": _platform(event_input, exposure_input, timezone),
        "configs/metrics.yaml": _metrics(facts),
        **{
            f"configs/experiments/{_slug(name)}.yaml": _experiment(facts, name)
            for name in facts.experiments
        },
        "workspace.yaml": WORKSPACE,
        ".gitignore": ".experiments/\n",
    }
    written = []
    for name, text in documents.items():
        path = folder / name
        if path.exists():
            continue
        write_bytes(path, text.encode())
        written.append((path, ""))
    for kind in ("interventions", "bandits"):
        (folder / "configs" / kind).mkdir(exist_ok=True)
    load_project(folder)
    return written


def _inspect(folder: Path, paths: Sequence[Path], guess: Any) -> _Input:
    resolved = [path.resolve() for path in paths]
    for path in resolved:
        if not path.is_file():
            msg = f"{path}: no such file"
            raise ValueError(msg)
        if path.suffix not in (".parquet", ".pq", ".csv"):
            msg = f"{path}: unknown file type {path.suffix!r}; use .parquet or .csv"
            raise ValueError(msg)
    parents, suffixes = {path.parent for path in resolved}, {path.suffix for path in resolved}
    if len(parents) > 1 or len(suffixes) > 1:
        msg = f"{', '.join(map(str, paths))}: files of one kind must lie in one folder"
        raise ValueError(msg)
    parent = resolved[0].parent
    shown = parent.relative_to(folder) if parent.is_relative_to(folder) else parent
    name = resolved[0].name if len(resolved) == 1 else f"*{resolved[0].suffix}"
    draft = _Input(paths=resolved, pattern=str(shown / name), types={}, roles={})
    try:
        rows = _rows(f"SELECT column_name, column_type FROM (DESCRIBE FROM {draft.reader})")
        types = dict(rows)
    except duckdb.Error as error:
        msg = f"{resolved[0]}: cannot be read ({type(error).__name__})"
        raise ValueError(msg) from None
    return _Input(
        paths=resolved, pattern=draft.pattern, types=types, roles=guess(resolved[0], types)
    )


def _event_roles(path: Path, types: dict[str, str]) -> dict[str, str]:
    roles = _common_roles(path, types)
    for role, names in (
        ("event", EVENT_NAMES),
        ("event_id", EVENT_ID_NAMES),
        ("value", VALUE_NAMES),
    ):
        column = _named(types, names)
        if column is not None and column not in roles.values():
            roles[role] = column
    if "value" in roles and not _is_number(types[roles["value"]]):
        del roles["value"]
    return roles


def _exposure_roles(path: Path, types: dict[str, str]) -> dict[str, str]:
    roles = _common_roles(path, types)
    variant = _named(types, VARIANT_NAMES)
    if variant is None:
        raise ValueError(_cannot_guess(path, "variant", VARIANT_NAMES, types))
    roles["variant"] = variant
    experiment = _named(types, EXPERIMENT_NAMES)
    if experiment is not None:
        roles["experiment"] = experiment
    return roles


def _common_roles(path: Path, types: dict[str, str]) -> dict[str, str]:
    unit = _named(types, UNIT_NAMES)
    if unit is None:
        raise ValueError(_cannot_guess(path, "unit", UNIT_NAMES, types))
    time = _named(types, TIME_NAMES) or next(
        (name for name, kind in types.items() if kind.startswith("TIMESTAMP")), None
    )
    if time is None:
        raise ValueError(_cannot_guess(path, "timestamp", TIME_NAMES, types))
    return {"unit": unit, "timestamp": time}


def _named(types: dict[str, str], names: Sequence[str]) -> str | None:
    lowered = {column.lower(): column for column in types}
    return next((lowered[name] for name in names if name in lowered), None)


def _cannot_guess(path: Path, role: str, names: Sequence[str], types: dict[str, str]) -> str:
    return (
        f"{path}: cannot guess the {role} column among {', '.join(types)}. "
        f"Hint: name it one of {', '.join(names[:6])}, or write configs/platform.yaml by hand"
    )


def _is_number(kind: str) -> bool:
    return kind.startswith(("DECIMAL", "DOUBLE", "FLOAT", "U", "HUGE")) or "INT" in kind


class _Facts:
    """What the files say that a starter configuration needs."""

    def __init__(self, events: _Input, exposures: _Input) -> None:
        self.events = events
        at = exposures.column("timestamp")
        name = exposures.column("experiment") if "experiment" in exposures.roles else "'experiment'"
        rows = _rows(
            f"""SELECT {name}::VARCHAR AS experiment, {exposures.column("variant")}::VARCHAR AS arm,
                min({at})::TIMESTAMP AS first_at, max({at})::TIMESTAMP AS last_at
            FROM {exposures.reader} GROUP BY ALL HAVING arm IS NOT NULL ORDER BY ALL"""
        )
        self.experiments: dict[str, list[tuple[str, dt.datetime, dt.datetime]]] = {}
        for experiment, arm, first, last in rows:
            self.experiments.setdefault(str(experiment), []).append((arm, first, last))
        self.experiments = {name: arms for name, arms in self.experiments.items() if len(arms) > 1}
        if not self.experiments:
            msg = f"{exposures.paths[0]}: no experiment with two or more variants"
            raise ValueError(msg)
        self.first_event, self.last_event = self._event_span()
        first = min(arm[1] for arms in self.experiments.values() for arm in arms)
        span = max((self.last_event - first).days, 1)
        # Long enough to matter, short enough that most units are observed to the end.
        self.window_days = 14 if span >= 42 else 7 if span >= 14 else max(1, span // 3)  # noqa: PLR2004
        self.history_days = max((first - self.first_event).days, 0)
        self.event_kinds = self._event_kinds()

    def _event_span(self) -> tuple[dt.datetime, dt.datetime]:
        at = self.events.column("timestamp")
        query = f"SELECT min({at})::TIMESTAMP, max({at})::TIMESTAMP FROM {self.events.reader}"
        first, last = _rows(query)[0]
        return first, last

    def _event_kinds(self) -> list[tuple[str, bool]]:
        """The commonest events, and whether they carry values."""
        event = self.events.column("event") if "event" in self.events.roles else "'event'"
        value = self.events.column("value") if "value" in self.events.roles else "NULL"
        rows = _rows(
            f"""SELECT {event}::VARCHAR, count({value}) > 0 FROM {self.events.reader}
            WHERE {event} IS NOT NULL GROUP BY ALL ORDER BY count(*) DESC, 1 LIMIT {MAX_EVENTS}"""
        )
        return [(str(name), bool(valued)) for name, valued in rows]

    @property
    def primary(self) -> str:
        """The metric that most likely decides: whether a unit did the event that sounds like it."""
        names = [name for name, _ in self.event_kinds]
        chosen = next((name for name in names if SUCCESS.search(name)), names[0])
        return f"{_column(chosen)}_rate"


def _platform(events: _Input, exposures: _Input, timezone: str) -> str:
    return "\n".join(
        [
            "# Where data come from and where results live. Paths are relative to this project;",
            "# a pattern such as data/events/*.parquet lands new files as they appear.",
            "schema_version: 1",
            "storage: .experiments",
            f"timezone: {timezone}",
            "sources:",
            *_source("events", events, timezone, None if "event" in events.roles else "event"),
            *_source("exposures", exposures, timezone, None),
            "alerts:",
            "  channels:",
            "    - {kind: file, name: alerts_file, path: .experiments/alerts.jsonl}",
            "",
        ]
    )


def _source(kind: str, source: _Input, timezone: str, event_name: str | None) -> list[str]:
    lines = [f"  {kind}:", f"    kind: {kind}", f"    path: {_quoted(source.pattern)}"]
    if "TIME ZONE" not in source.types[source.roles["timestamp"]]:
        lines.append(
            f"    timezone: {timezone}    # what timestamps without a zone mean: check this"
        )
    lines.append("    columns:")
    lines += [f"      {role}: {_quoted(column)}" for role, column in source.roles.items()]
    if event_name:
        lines.append(f"    event_name: {event_name}")
    if kind == "exposures" and "experiment" not in source.roles:
        lines.append("    experiment_name: experiment")
    return lines


def _metrics(facts: _Facts) -> str:
    lines = [
        "# Each metric once. Windows count from each unit's own first exposure.",
        "schema_version: 1",
        "metrics:",
    ]
    for event, is_valued in facts.event_kinds:
        name = _column(event)
        shared = [f"    event: {_quoted(event)}", f"    window_days: {facts.window_days}"]
        lines += [f"  {name}_rate:", "    kind: proportion", *shared]
        lines += [f"  {name}_count:", "    kind: count", *shared]
        if is_valued:
            lines += [f"  {name}_value:", "    kind: mean", *shared]
    return "\n".join([*lines, ""])


def _experiment(facts: _Facts, name: str) -> str:
    arms = facts.experiments[name]
    names = sorted((arm for arm, _, _ in arms), key=_control_first)
    shares = _equal_shares(len(names))
    start = min(first for _, first, _ in arms).date()
    end = max(last for _, _, last in arms).date() + dt.timedelta(days=1)
    weeks = max(1, -(-(end - start).days // 7))
    secondary = [f"{_column(event)}_value" for event, valued in facts.event_kinds if valued]
    estimator = "{kind: unadjusted}    # there is no history before the experiment"
    if facts.history_days >= 7:  # noqa: PLR2004
        estimator = f"{{kind: cuped, covariate_days: {min(facts.history_days, 28)}}}"
    slug = _slug(name)
    return "\n".join(
        [
            f"# Started by `experiments init` from the exposures of {name!r}. Check every line:",
            "# the plan is frozen by the first run that finds exposed units.",
            "schema_version: 1",
            "owner: team:experimentation",
            'hypothesis: {primary: "Say what you expect, and why"}',
            "unit: user",
            "variants:    # first is the control; shares as you configured them (equal is a guess)",
            *(f"  {_quoted(arm)}: {share}" for arm, share in zip(names, shares, strict=True)),
            f"salt: {secrets.token_hex(16)}",
            *([f"exposure: {{experiment: {_quoted(name)}}}"] if slug != name else []),
            f"window: {{start: {start}, end: {end}}}",
            "metrics:",
            f"  primary: {{metric: {facts.primary}, minimum_effect: 0.02}}",
            f"  secondary: [{', '.join(secondary)}]",
            "plan:",
            "  alpha: 0.05",
            "  power: 0.8",
            "  mde: 0.05    # the relative effect the experiment was sized for",
            f"  estimator: {estimator}",
            f"  looks: {{schedule: weekly, design: {{kind: group_sequential, planned: {weeks}}}}}",
            "",
        ]
    )


def _control_first(arm: str) -> tuple[int, str]:
    lowered = arm.lower()
    rank = CONTROL_NAMES.index(lowered) if lowered in CONTROL_NAMES else len(CONTROL_NAMES)
    return rank, arm


def _equal_shares(n: int) -> list[float]:
    share = round(1 / n, 10)
    return [*([share] * (n - 1)), round(1 - share * (n - 1), 10)]


def _slug(name: str) -> str:
    text = re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_-")[:64]
    return text if re.match(r"^[a-z0-9]", text) else f"experiment_{text}"[:64].rstrip("_-")


def _column(event: str) -> str:
    text = re.sub(r"[^a-z0-9_]+", "_", event.lower()).strip("_")[:40] or "event"
    return text if text[0].isalpha() else f"event_{text}"


def _quoted(text: str) -> str:
    if re.match(r"^[A-Za-z_./][A-Za-z0-9_./-]*$", text) and text.lower() not in (
        "null",
        "true",
        "false",
    ):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _rows(query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(":memory:") as connection:
        return connection.execute(query).fetchall()
