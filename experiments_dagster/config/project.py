"""A project: the folder that holds configs/. Loads and checks everything, reports every mistake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from experiments_dagster.alerts.channels import ChannelSettings
from experiments_dagster.alerts.file import FileChannel
from experiments_dagster.config.bandit import Bandit, BanditSpec, bandit_rules, resolve_bandit
from experiments_dagster.config.base import SLUG
from experiments_dagster.config.errors import ConfigError, ConfigIssue
from experiments_dagster.config.experiment import (
    CapQuantile,
    CupedEstimator,
    ExperimentSpec,
    GroupSequential,
)
from experiments_dagster.config.intervention import (
    FAMILIES,
    InterventionSpec,
    PanelSpec,
    TimeSeriesSpec,
    design_kind,
)
from experiments_dagster.config.metrics import (
    Measure,
    Metric,
    MetricsFile,
    QuantileMetric,
    RatioMetric,
    SummaryMetric,
    resolve_metric,
)
from experiments_dagster.config.platform import (
    EventSource,
    ExposureSource,
    Platform,
    SummarySource,
)
from experiments_dagster.config.resolve import Experiment, canonical_hash, resolve_experiment
from experiments_dagster.config.study_data import (
    PanelEvents,
    PanelFile,
    Series,
    SeriesFile,
    UnitsEvents,
    UnitsFile,
)
from experiments_dagster.config.yaml_file import Location, YamlFile, read_yaml

Model = TypeVar("Model", bound=BaseModel)

# Columns of unit frames beside the outcomes, and those that each outcome brings with it.
FRAME_COLUMNS = ("unit", "arm", "exposed_at", "n_exposures", "n_arms", "is_pre_missing")
DERIVED_COLUMNS = {
    "pre_": "the pre-period of",
    "lag_": "the time before the pre-period of",
    "cap_basis_": "the basis of the cap of",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervention:
    """One intervention with the metrics it reads, by name; none where it reads a file.

    `files` are the tables it reads, as absolute paths.
    """

    slug: str
    spec: InterventionSpec
    metrics: dict[str, Metric]
    files: tuple[Path, ...] = ()

    @property
    def metric(self) -> Metric | None:
        """The metric of the outcome, if landed events are read."""
        return next(iter(self.metrics.values()), None)

    @property
    def config_hash(self) -> str:
        """Hash of what its file says and of the metrics it names."""
        metrics = {name: metric.model_dump(mode="json") for name, metric in self.metrics.items()}
        return canonical_hash([self.spec.model_dump(mode="json"), metrics])


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """Everything a user configured, checked and resolved."""

    folder: Path
    platform: Platform
    metrics: dict[str, Metric]
    experiments: dict[str, Experiment]
    interventions: dict[str, Intervention]
    bandits: dict[str, Bandit]

    @property
    def storage(self) -> Path:
        """The root folder of everything the program writes."""
        return (self.folder / self.platform.storage).resolve()

    @property
    def channels(self) -> tuple[ChannelSettings, ...]:
        """Alert channels, with file paths taken from the project folder."""
        return tuple(
            channel.model_copy(update={"path": self.folder / channel.path})
            if isinstance(channel, FileChannel)
            else channel
            for channel in self.platform.alerts.channels
        )

    def measures(self, source: str) -> tuple[Measure, ...]:
        """The distinct measures that any metric needs from one event source, sorted by key."""
        found = {
            part.key: part
            for metric in self.metrics.values()
            for part in metric.parts
            if part.source == source
        }
        return tuple(found[key] for key in sorted(found))


def load_project(folder: Path) -> Project:
    """Load configs/ of a project folder.

    Raises:
        ConfigError: With every mistake found, each naming file, line, path and rule.
    """
    project, issues = read_project(folder)
    if issues or project is None:
        raise ConfigError(issues)
    return project


def read_project(folder: Path) -> tuple[Project | None, list[ConfigIssue]]:
    """Load what is right and list what is wrong.

    A mistake in one experiment, intervention or bandit leaves the others usable; the project is
    None only when platform.yaml or metrics.yaml cannot be used.
    """
    folder = folder.resolve()
    configs = folder / "configs"
    if not configs.is_dir():
        rule = "no configs/ folder here; `experiments init DIR` makes one"
        return None, [ConfigIssue(file=folder, line=None, path="", rule=rule)]
    issues: list[ConfigIssue] = []
    platform = _read_model(configs / "platform.yaml", Platform, issues)
    metrics_file = _read_model(configs / "metrics.yaml", MetricsFile, issues)
    if platform is None or metrics_file is None:
        return None, issues
    metrics = _resolve_metrics(metrics_file, platform[0], issues)
    experiments = _read_experiments(configs / "experiments", platform[0], metrics, issues)
    interventions = _read_interventions(configs / "interventions", platform[0], metrics, issues)
    bandits = _read_bandits(configs / "bandits", platform[0], metrics, issues)
    for slug in sorted(experiments.keys() & interventions.keys()):
        file = configs / "interventions" / f"{slug}.yaml"
        rule = f"{slug!r} is an experiment too; reports and commands go by slug, so it must differ"
        issues.append(ConfigIssue(file=file, line=None, path="", rule=rule))
        del interventions[slug]
    project = Project(
        folder=folder,
        platform=platform[0],
        metrics=metrics,
        experiments=experiments,
        interventions=interventions,
        bandits=bandits,
    )
    return project, issues


def _read_model(
    file: Path, model: type[Model] | Callable[[YamlFile], type[Model]], issues: list[ConfigIssue]
) -> tuple[Model, YamlFile] | None:
    """Read a file as a model, or as the one that a function chooses for what the file says."""
    try:
        yaml_file = read_yaml(file)
        chosen: type[Model] = model if isinstance(model, type) else model(yaml_file)
    except ConfigError as error:
        issues.extend(error.issues)
        return None
    try:
        return chosen.model_validate(yaml_file.data), yaml_file
    except ValidationError as error:
        issues.extend(_issue_of(yaml_file, item) for item in error.errors(include_url=False))
        return None


def _issue_of(yaml_file: YamlFile, error: Any) -> ConfigIssue:
    location: Location = tuple(error["loc"])
    place = _place_in_file(yaml_file, location)
    kind, message = error["type"], str(error["msg"])
    if kind == "extra_forbidden":
        rule = f"unknown key {location[-1]!r}"
    elif kind == "missing":
        rule = f"required key {location[-1]!r} is missing"
    elif kind == "value_error":
        rule = message.removeprefix("Value error, ")
    else:
        value = error.get("input")
        # An alert channel's address may hold a token.
        is_private = location[0] == "alerts"
        is_plain = isinstance(value, str | int | float | bool) and not is_private
        shown = f", got {value!r}" if is_plain else ""
        rule = message[0].lower() + message[1:] + shown
    return yaml_file.issue(place, rule)


def _place_in_file(yaml_file: YamlFile, location: Location) -> Location:
    """Drop the parts that pydantic adds for unions and keep what stands in the file."""
    place: Location = ()
    for index, part in enumerate(location):
        if (*place, part) in yaml_file.lines or index == len(location) - 1:
            place = (*place, part)
    return place if place in yaml_file.lines else place[:-1]


def _resolve_metrics(
    loaded: tuple[MetricsFile, YamlFile], platform: Platform, issues: list[ConfigIssue]
) -> dict[str, Metric]:
    metrics_file, yaml_file = loaded
    resolved = {}
    for name, spec in metrics_file.metrics.items():
        place: Location = ("metrics", name)
        is_summary = isinstance(spec, SummaryMetric)
        sources = platform.sources_of("summaries" if is_summary else "events")
        parts = [spec.numerator, spec.denominator] if isinstance(spec, RatioMetric) else [spec]
        missing = any(part.source is None for part in parts)
        if missing and len(sources) != 1:
            listed = ", ".join(sources) or "none is declared"
            issues.append(yaml_file.issue(place, f"needs `source`, one of: {listed}"))
            continue
        metric = resolve_metric(name, spec, sources[0] if sources else "")
        rules = [rule for part in metric.parts for rule in _measure_rules(part, platform)]
        if is_summary:
            rules += _summary_rules(metric, platform)
        if isinstance(spec, QuantileMetric) and metric.of_events:
            rules += _event_quantile_rules(metric, platform)
        if metric.is_ratio and len({part.source for part in metric.parts}) > 1:
            rules.append("numerator and denominator must come from one source")
        issues.extend(yaml_file.issue(place, rule) for rule in dict.fromkeys(rules))
        if not rules:
            resolved[name] = metric
    for name, metric in list(resolved.items()):
        for rule in _made_from_rules(metric, resolved):
            issues.append(yaml_file.issue(("metrics", name, "made_from"), rule))
            del resolved[name]
    return {name: _with_window(metric, resolved) for name, metric in resolved.items()}


def _with_window(metric: Metric, resolved: dict[str, Metric]) -> Metric:
    """Give a summary the window of the metric that it is made from."""
    source = resolved.get(metric.made_from or "")
    if source is None or metric.is_open_ended:
        return metric
    window = {"start_day": source.start_day, "window_days": source.window_days}
    return metric.model_copy(update=window)


def _made_from_rules(metric: Metric, metrics: dict[str, Metric]) -> list[str]:
    """Only a metric over events, and of the same shape, can be aggregated to a summary."""
    if metric.made_from is None:
        return []
    source = metrics.get(metric.made_from)
    if source is None or source.is_summary:
        known = ", ".join(name for name, m in metrics.items() if not m.is_summary) or "none"
        return [f"{metric.made_from!r} is no metric over events; known: {known}"]
    if source.is_ratio != metric.summary_ratio:
        wanted = "ratio" if source.is_ratio else "mean"
        return [f"{metric.made_from!r} is a {source.kind}; need `value: {wanted}`"]
    return []


def _summary_rules(metric: Metric, platform: Platform) -> list[str]:
    source = platform.sources.get(metric.summary_source or "")
    if not isinstance(source, SummarySource):
        known = ", ".join(platform.sources_of("summaries")) or "none"
        return [f"source {metric.summary_source!r} is not a source of summaries; known: {known}"]
    if metric.summary_ratio and source.columns.covariance is None:
        return [f"a ratio needs the denominator's moments, which {metric.summary_source!r} lacks"]
    return []


def _event_quantile_rules(metric: Metric, platform: Platform) -> list[str]:
    source = platform.sources.get(metric.parts[0].source)
    if isinstance(source, EventSource) and source.columns.value is None:
        return ["a quantile of events needs a source that maps a `value` column"]
    return []


def _measure_rules(measure: Measure, platform: Platform) -> list[str]:
    source = platform.sources.get(measure.source)
    if not isinstance(source, EventSource):
        known = ", ".join(platform.sources_of("events"))
        return [f"source {measure.source!r} is not an event source; known: {known}"]
    rules = []
    if measure.aggregate == "sum" and source.columns.value is None:
        rules.append(f"sums values, but source {measure.source!r} maps no `value` column")
    for name in measure.where:
        if name not in source.properties:
            known = ", ".join(source.properties) or "none"
            rules.append(f"property {name!r} is not mapped by {measure.source!r}; mapped: {known}")
    return rules


def _read_experiments(
    folder: Path, platform: Platform, metrics: dict[str, Metric], issues: list[ConfigIssue]
) -> dict[str, Experiment]:
    experiments = {}
    salts: dict[str, str] = {}
    for file in _yaml_files(folder, issues):
        loaded = _read_model(file, ExperimentSpec, issues)
        if loaded is None:
            continue
        spec, yaml_file = loaded
        found = _experiment_issues(spec, yaml_file, platform, metrics)
        other = salts.setdefault(spec.salt, file.stem)
        if other != file.stem:
            rule = f"is the salt of experiment {other!r} too; each experiment needs its own"
            found.append(yaml_file.issue(("salt",), rule))
        if not found:
            experiment = resolve_experiment(
                file.stem,
                spec,
                metrics,
                exposure_source=_exposure_source(spec, platform, metrics),
                timezone=platform.timezone,
            )
            if platform.engine == "spark":
                found += [yaml_file.issue(place, rule) for place, rule in _spark_rules(experiment)]
        issues.extend(found)
        if not found:
            experiments[file.stem] = experiment
    return experiments


def _spark_rules(experiment: Experiment) -> list[tuple[tuple[str, ...], str]]:
    """What only sums over units cannot give."""
    if experiment.is_summary:
        return []
    rules: list[tuple[tuple[str, ...], str]] = []
    if not experiment.is_additive:
        rule = (
            "needs units, and `engine: spark` brings back sums alone: means, proportions and "
            "ratios of closed windows, estimator unadjusted or cuped on pre-period totals"
        )
        rules.append((("plan",), rule))
    if isinstance(experiment.plan.cap, CapQuantile):
        rule = "`engine: spark` has no quantile of the pre-period; give `cap: {value: ...}`"
        rules.append((("plan", "cap"), rule))
    return rules


def _exposure_source(spec: ExperimentSpec, platform: Platform, metrics: dict[str, Metric]) -> str:
    """Where the arms come from: for summaries the source of the moments itself."""
    primary = metrics[spec.metrics.primary.metric]
    if primary.is_summary:
        return primary.summary_source or ""
    return spec.exposure.source or platform.sources_of("exposures")[0]


def _experiment_issues(
    spec: ExperimentSpec, yaml_file: YamlFile, platform: Platform, metrics: dict[str, Metric]
) -> list[ConfigIssue]:
    issues = []
    roles: list[tuple[Location, str]] = [
        (("metrics", "primary", "metric"), spec.metrics.primary.metric),
        *((("metrics", "success", k), name) for k, name in enumerate(spec.metrics.success)),
        *((("metrics", "secondary", k), name) for k, name in enumerate(spec.metrics.secondary)),
        *(
            (("metrics", "guardrails", k, "metric"), guardrail.metric)
            for k, guardrail in enumerate(spec.metrics.guardrails)
        ),
    ]
    for place, name in roles:
        if name not in metrics:
            known = ", ".join(sorted(metrics)) or "none"
            issues.append(yaml_file.issue(place, f"unknown metric {name!r}; known: {known}"))
    issues += [yaml_file.issue(place, rule) for place, rule in _column_rules(spec, roles, metrics)]
    used = [metrics[name] for _, name in roles if name in metrics]
    issues += [yaml_file.issue(place, rule) for place, rule in _plan_rules(spec, used)]
    primary = metrics.get(spec.metrics.primary.metric)
    if primary is not None and primary.is_summary:
        return issues
    if spec.plan.cap is not None and primary is not None and primary.kind != "mean":
        rule = f"a cap needs a primary metric of kind mean; {primary.name!r} is a {primary.kind}"
        issues.append(yaml_file.issue(("plan", "cap"), rule))
    sources = platform.sources_of("exposures")
    source = spec.exposure.source
    if source is None and len(sources) != 1:
        listed = ", ".join(sources) or "none"
        place = ("exposure",)
        issues.append(yaml_file.issue(place, f"needs `source`, an exposure source: {listed}"))
    elif source is not None and source not in sources:
        known = ", ".join(sources) or "none"
        rule = f"{source!r} is not an exposure source; known: {known}"
        issues.append(yaml_file.issue(("exposure", "source"), rule))
    else:
        exposures = platform.sources[source or sources[0]]
        assert isinstance(exposures, ExposureSource)
        issues.extend(
            yaml_file.issue(place, f"property {name!r} is not mapped by the source")
            for place, name in _property_places(spec)
            if name not in exposures.properties
        )
    return issues


def _column_rules(
    spec: ExperimentSpec, roles: list[tuple[Location, str]], metrics: dict[str, Metric]
) -> list[tuple[Location, str]]:
    """No metric's column may be one that the frames of the experiment make of something else."""
    used = [(place, metrics[name]) for place, name in roles if name in metrics]
    made: dict[str, list[tuple[str, str]]] = {}  # column: whose it is, and what it holds
    for name in FRAME_COLUMNS:
        made.setdefault(name, []).append(("", "of every unit"))
    for _, name in _property_places(spec):
        made.setdefault(f"segment_{name}", []).append(("", f"the property {name!r}"))
    for _, metric in used:
        for column, _ in metric.columns:
            if metric.is_ratio:
                text = f"a part of the ratio {metric.name!r}"
                made.setdefault(column, []).append((metric.name, text))
            for prefix, what in DERIVED_COLUMNS.items():
                text = f"{what} {column!r}"
                made.setdefault(f"{prefix}{column}", []).append((metric.name, text))
    return [
        (place, f"metric {metric.name!r} needs the column {column!r}, which is {what}; rename one")
        for place, metric in used
        for column, _ in metric.columns
        for owner, what in made.get(column, [])
        if owner != metric.name
    ]


def _property_places(spec: ExperimentSpec) -> list[tuple[Location, str]]:
    """Every property of exposures that a file names, and where."""
    estimator = spec.plan.estimator
    places: list[tuple[Location, str]] = [
        *((("segments", k), name) for k, name in enumerate(spec.segments)),
        *((("stratify_by", k), name) for k, name in enumerate(spec.stratify_by)),
    ]
    if isinstance(estimator, CupedEstimator):
        place: Location = ("plan", "estimator", "categories")
        places += [((*place, k), name) for k, name in enumerate(estimator.categories)]
    if spec.plan.cluster is not None:
        places.append((("plan", "cluster"), spec.plan.cluster))
    return places


def _plan_rules(spec: ExperimentSpec, used: list[Metric]) -> list[tuple[Location, str]]:
    """Rules on how metrics, estimator and looks fit together."""
    rules = _summary_plan_rules(spec, used) if any(m.is_summary for m in used) else []
    kind, design = spec.plan.estimator.kind, spec.plan.looks.design
    if isinstance(design, GroupSequential) and design.futility is not None:
        rules += _futility_rules(spec, used)
    rules += _method_rules(spec, used)
    if kind == "post_stratified" and not spec.stratify_by:
        rules.append((("plan", "estimator"), "post_stratified needs `stratify_by`"))
    if spec.plan.cluster is not None:
        rules += [(("plan", "cluster"), rule) for rule in _cluster_rules(spec, used)]
    return rules


def _futility_rules(spec: ExperimentSpec, used: list[Metric]) -> list[tuple[Location, str]]:
    place: Location = ("plan", "looks", "design", "futility")
    rules: list[tuple[Location, str]] = []
    if spec.metrics.success:
        rule = "futility is judged on one success metric; `metrics.success` lists more"
        rules.append((place, rule))
    if any(m.is_open_ended and m.name == spec.metrics.primary.metric for m in used):
        rules.append((place, "futility needs a primary metric over complete cohorts"))
    if spec.plan.power <= spec.plan.alpha:
        rule = f"power {spec.plan.power:g} must be above alpha {spec.plan.alpha:g}"
        rules.append((("plan", "power"), rule))
    return rules


def _method_rules(spec: ExperimentSpec, used: list[Metric]) -> list[tuple[Location, str]]:
    """Options that would have no effect, and margins that mean nothing."""
    rules: list[tuple[Location, str]] = []
    by_name = {metric.name: metric for metric in used}
    for k, guardrail in enumerate(spec.metrics.guardrails):
        metric = by_name.get(guardrail.metric)
        is_increase = metric is not None and metric.direction == "increase"
        if is_increase and not guardrail.absolute and guardrail.margin >= 1:
            rule = f"a relative margin is a share below 1 (5 % is 0.05), got {guardrail.margin:g}"
            rules.append((("metrics", "guardrails", k, "margin"), rule))
    primary = by_name.get(spec.metrics.primary.metric)
    estimator = spec.plan.estimator
    if primary is None or primary.kind in ("mean", "count", "proportion", "retention", "summary"):
        return rules
    if isinstance(estimator, CupedEstimator) and estimator.variance != "lin_hc2":
        rule = f"{estimator.variance} is for means; the primary metric is a {primary.kind}"
        rules.append((("plan", "estimator", "variance"), rule))
    if spec.plan.sensitivity and (primary.is_ratio or primary.of_events):
        rule = f"these methods compare one value per unit; the primary is a {primary.kind}"
        rules.append((("plan", "sensitivity"), rule))
    return rules


def _cluster_rules(spec: ExperimentSpec, used: list[Metric]) -> list[str]:
    rules = []
    if any(metric.is_open_ended for metric in used):
        rules.append("clustered randomisation needs metrics over complete cohorts")
    if any(metric.quantile is not None for metric in used):
        rules.append("clustered randomisation has no quantiles: their units are not randomised")
    if spec.plan.sensitivity:
        rules.append("clustered randomisation takes no `sensitivity`: its methods read units")
    if spec.plan.estimator.kind != "unadjusted":
        rules.append("clustered randomisation needs `estimator: {kind: unadjusted}`")
    return rules


def _summary_plan_rules(spec: ExperimentSpec, used: list[Metric]) -> list[tuple[Location, str]]:
    """What moments cannot give."""
    rules: list[tuple[Location, str]] = []
    if not all(metric.is_summary for metric in used):
        rules.append((("metrics",), "metrics of kind summary and of events do not mix"))
    if len({metric.summary_source for metric in used if metric.is_summary}) > 1:
        rules.append((("metrics",), "all summary metrics must come from one source"))
    if spec.plan.estimator.kind != "unadjusted":
        rule = "moments have no covariates: summaries need `estimator: {kind: unadjusted}`"
        rules.append((("plan", "estimator"), rule))
    plan = spec.plan
    for place, value in (
        (("segments",), spec.segments),
        (("stratify_by",), spec.stratify_by),
        (("plan", "cap"), plan.cap),
        (("plan", "cluster"), plan.cluster),
        (("plan", "sensitivity"), plan.sensitivity),
    ):
        if value:
            rules.append((place, "needs units; summaries have none"))
    design = plan.looks.design
    is_assumed = not isinstance(design, GroupSequential) or design.assume_independent_increments
    if any(metric.is_open_ended for metric in used) and not is_assumed:
        rule = (
            "group-sequential looks at open-ended summaries are not valid in general; use "
            "`cohorts: complete`, a confidence_sequence, or state "
            "`assume_independent_increments: true`"
        )
        rules.append((("plan", "looks", "design"), rule))
    return rules


def _family(yaml_file: YamlFile) -> type[InterventionSpec]:
    """The model of an intervention's file, by the kind of its design."""
    kind = design_kind(yaml_file.data)
    if kind not in FAMILIES:
        shown = "is missing" if kind is None else f"{kind!r} is unknown"
        rule = f"the design's `kind` {shown}; known: {', '.join(FAMILIES)}"
        raise ConfigError([yaml_file.issue(("design", "kind"), rule)])
    return FAMILIES[kind]


def _read_interventions(
    folder: Path, platform: Platform, metrics: dict[str, Metric], issues: list[ConfigIssue]
) -> dict[str, Intervention]:
    interventions = {}
    for file in _yaml_files(folder, issues):
        loaded = _read_model(file, _family, issues)
        if loaded is None:
            continue
        spec, yaml_file = loaded
        named, sources, read = _needs(spec)
        found = []
        for place, name in named.items():
            if name not in metrics:
                rule = f"unknown metric {name!r}; known: {', '.join(sorted(metrics))}"
                found.append(yaml_file.issue(place, rule))
        for place, name in sources.items():
            if name not in platform.sources_of("exposures"):
                found.append(yaml_file.issue(place, f"{name!r} is not an exposure source"))
        for place, name in read.items():
            if not (folder.parents[1] / name).is_file():
                found.append(yaml_file.issue(place, f"{name!r}: the project has no such file"))
        issues.extend(found)
        if not found:
            interventions[file.stem] = Intervention(
                slug=file.stem,
                spec=spec,
                metrics={name: metrics[name] for name in named.values()},
                files=tuple((folder.parents[1] / name).resolve() for name in read.values()),
            )
    return interventions


def _data_of(
    spec: InterventionSpec,
) -> tuple[str, Series | SeriesFile | PanelEvents | PanelFile | UnitsEvents | UnitsFile]:
    """The key under which a study describes its data, and what stands there."""
    if isinstance(spec, TimeSeriesSpec):
        return "series", spec.series
    if isinstance(spec, PanelSpec):
        return "panel", spec.panel
    return "units", spec.units


def _needs(
    spec: InterventionSpec,
) -> tuple[dict[Location, str], dict[Location, str], dict[Location, str]]:
    """Place in the file to name, of metrics (the outcome's first), exposure sources and files."""
    place, data = _data_of(spec)
    if isinstance(data, SeriesFile | PanelFile | UnitsFile):
        return {}, {}, {(place, "file"): data.file}
    sources: dict[Location, str] = {(place, "treated", "source"): data.treated.source}
    if isinstance(data, UnitsEvents):
        named: dict[Location, str] = {(place, "outcome", "metric"): data.outcome.metric}
        for part in ("covariates", "placebo_outcomes"):
            for name, window in getattr(data, part).items():
                named[place, part, name, "metric"] = window.metric
        return named, sources, {}
    return {(place, "metric"): data.metric}, sources, {}


def _read_bandits(
    folder: Path, platform: Platform, metrics: dict[str, Metric], issues: list[ConfigIssue]
) -> dict[str, Bandit]:
    bandits = {}
    for file in _yaml_files(folder, issues):
        loaded = _read_model(file, BanditSpec, issues)
        if loaded is None:
            continue
        spec, yaml_file = loaded
        found = [
            yaml_file.issue(place, rule) for place, rule in bandit_rules(spec, metrics, platform)
        ]
        issues.extend(found)
        if not found:
            bandits[file.stem] = resolve_bandit(
                file.stem, spec, metrics, timezone=platform.timezone
            )
    return bandits


def _yaml_files(folder: Path, issues: list[ConfigIssue]) -> list[Path]:
    if not folder.is_dir():
        return []
    files = []
    for file in sorted(folder.iterdir()):
        if file.suffix not in (".yaml", ".yml") or file.name.startswith("."):
            continue
        if file.suffix == ".yml" or not SLUG.fullmatch(file.stem):
            rule = f"the file name is the slug and must match {SLUG.pattern} plus .yaml"
            issues.append(ConfigIssue(file=file, line=None, path="", rule=rule))
            continue
        files.append(file)
    return files
