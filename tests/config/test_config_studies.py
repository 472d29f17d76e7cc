"""Files of configs/interventions: what each design needs, and what is refused with which words."""

import textwrap

import pytest
from factories import make_project

from experiments_dagster.config.errors import ConfigError
from experiments_dagster.config.intervention import PanelSpec, TimeSeriesSpec, UnitSpec
from experiments_dagster.config.project import load_project, read_project

HEAD = "schema_version: 1\nowner: team:x\ndescription: something happened\n"
PANEL = """
    panel:
      file: data/panel.csv
      unit: state
      time: year
      outcome: sales
      treated_units: [California]
      starts: 1989
    design: {kind: synthetic_control}
"""
UNITS = """
    units:
      file: data/panel.csv
      outcome: sales
      treated: nsw
      covariates: [age, school]
    design: {kind: observational}
"""
CUTOFF = """
    units: {file: data/panel.csv, outcome: vote, running: margin}
    design: {kind: discontinuity, cutoff: 0}
"""
SERIES = """
    series: {file: data/panel.csv, date: day, outcome: y, covariates: [x1]}
    pre: {start: 2026-01-01, end: 2026-03-01}
    post: {start: 2026-03-02, end: 2026-03-31}
    design: {kind: time_series}
"""
EVENTS = """
    units:
      outcome: {metric: spend, start: 2026-03-01, end: 2026-03-31}
      treated: {source: exposures, experiment: spring}
      covariates:
        before: {metric: spend, start: 2026-01-01, end: 2026-01-31}
      placebo_outcomes:
        between: {metric: spend, start: 2026-02-01, end: 2026-02-28}
    design: {kind: observational}
"""
PANEL_EVENTS = """
    panel:
      metric: spend
      frequency: weekly
      treated: {source: exposures, experiment: spring}
      pre: {start: 2026-01-05, end: 2026-03-01}
      post: {start: 2026-03-02, end: 2026-03-29}
    design: {kind: difference_in_differences}
"""
AUGMENTED = """{kind: synthetic_control, method: augmented,
      predictors: [{columns: [a], first: 1, last: 2}]}"""
RIGHT = {
    "panel": (PANEL, PanelSpec),
    "units": (UNITS, UnitSpec),
    "cutoff": (CUTOFF, UnitSpec),
    "series": (SERIES, TimeSeriesSpec),
    "events": (EVENTS, UnitSpec),
    "panel_events": (PANEL_EVENTS, PanelSpec),
}


@pytest.fixture
def folder(tmp_path):
    make_project(tmp_path)
    (tmp_path / "configs" / "interventions").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "panel.csv").write_text("year,sales\n1980,1\n")
    return tmp_path


def write(folder, text, name="law"):
    path = folder / "configs" / "interventions" / f"{name}.yaml"
    path.write_text(HEAD + textwrap.dedent(text))


def problems(folder, text):
    write(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_project(folder)
    return str(caught.value)


@pytest.mark.parametrize("name", RIGHT)
def test_every_design_has_its_file(folder, name):
    text, model = RIGHT[name]
    write(folder, text)
    intervention = load_project(folder).interventions["law"]
    assert isinstance(intervention.spec, model)
    reads_file = "file:" in text
    assert (len(intervention.files) == 1) == reads_file
    assert (intervention.metric is None) == reads_file


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind: synthetic_control", "kind: magic", "'magic' is unknown; known: time_series"),
        ("kind: synthetic_control", "alpha: 0.05", "the design's `kind` is missing"),
        ("      starts: 1989\n", "", "treated_units needs `starts`"),
        ("treated_units: [California]", "is_treated: law", "without `starts`"),
        ("treated_units: [California]", "outcomes: x", "unknown key 'outcomes'"),
        ("      unit: state\n", "", "treated_units needs a `unit` column"),
        ("starts: 1989", "starts: soon", "isoformat"),
        ("starts: 1989", "starts: 1989.5", "need a whole number such as a year"),
        ("data/panel.csv", "data/other.csv", "the project has no such file"),
        (
            "treated_units: [California]",
            "treated_units: [California]\n      group: law",
            "exactly one of treated_units, group, is_treated, first_treated",
        ),
        (
            "{kind: synthetic_control}",
            AUGMENTED,
            "it takes no predictors",
        ),
    ],
)
def test_a_panel_says_once_who_is_treated_and_from_when(folder, old, new, said):
    assert old in PANEL
    assert said in problems(folder, PANEL.replace(old, new))


@pytest.mark.parametrize(
    ("text", "old", "new", "said"),
    [
        (UNITS, "      treated: nsw\n", "", "needs a column `treated`, or `running`"),
        (UNITS, "covariates: [age, school]", "covariates: []", "needs `treated` and `covariates`"),
        (UNITS, "[age, school]", "[age, sales]", "columns with two roles: sales"),
        (UNITS, "treated: nsw", "treated: nsw\n      treatment: a", "stand together"),
        (CUTOFF, "running: margin", "treated: law", "needs the column `running`"),
        (CUTOFF, "cutoff: 0", "cutoff: 0, is_fuzzy: true", "stand together"),
        (EVENTS, "end: 2026-02-28", "end: 2026-03-01", "must end before"),
        (EVENTS, "end: 2026-01-31", "end: 2026-02-01", "lies after what is adjusted for"),
        (EVENTS, "kind: observational", "kind: discontinuity, cutoff: 0", "no running variable"),
        (
            EVENTS,
            "{metric: spend, start: 2026-03-01",
            "{metric: nothing, start: 2026-03-01",
            "unknown metric 'nothing'",
        ),
        (EVENTS, "source: exposures", "source: orders", "'orders' is not an exposure source"),
        (
            PANEL_EVENTS,
            "kind: difference_in_differences",
            "kind: synthetic_control",
            "reads a panel from a file",
        ),
        (PANEL_EVENTS, "end: 2026-03-01", "end: 2026-02-28", "must be the day after pre.end"),
        (PANEL_EVENTS, "end: 2026-03-29", "end: 2026-03-30", "a weekly panel needs whole weeks"),
        (SERIES, "2026-03-02", "2026-03-03", "must be the day after pre.end"),
    ],
)
def test_mistakes_are_named(folder, text, old, new, said):
    assert old in text
    assert said in problems(folder, text.replace(old, new))


def test_a_mistake_in_one_study_leaves_the_others(folder):
    write(folder, PANEL)
    write(folder, UNITS.replace("treated: nsw", "treated: 3"), name="wrong")
    project, issues = read_project(folder)
    assert list(project.interventions) == ["law"]
    assert any("wrong.yaml" in str(issue) for issue in issues)


def test_a_project_of_tables_needs_neither_sources_nor_metrics(tmp_path):
    configs = tmp_path / "configs"
    (configs / "interventions").mkdir(parents=True)
    (configs / "platform.yaml").write_text("schema_version: 1\nsources: {}\n")
    (configs / "metrics.yaml").write_text("schema_version: 1\nmetrics: {}\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "panel.csv").write_text("year,sales\n1980,1\n")
    write(tmp_path, PANEL)
    assert list(load_project(tmp_path).interventions) == ["law"]
