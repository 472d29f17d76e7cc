"""The assembled definitions: what is there, how it hangs together, and how fast it loads."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import dagster as dg
import pytest
from ruamel.yaml import YAML
from shop_factory import shop_project

from experiments_dagster.checks.refutations import OTHERS, SERIES
from experiments_dagster.definitions import build_definitions

REPOSITORY = Path(__file__).parents[2]
FORBIDDEN = ("statsmodels", "scipy.stats", "pandera", "pandas", "scipy.optimize")

# Each asset with what it reads. Adding an asset is one line here.
GRAPH = {
    "raw/events": [],
    "raw/exposures": [],
    "frames/unit_days": ["raw/events"],
    "frames/user_frame": ["frames/unit_days", "raw/exposures"],
    "frames/ratio_frame": ["frames/unit_days", "raw/exposures"],
    "frames/daily_series": ["frames/unit_days", "raw/exposures"],
    "results/cuped": ["frames/ratio_frame", "frames/user_frame"],
    "results/sequential": ["results/cuped"],
    "results/causal_impact": ["frames/daily_series"],
    "frames/study_frame": ["frames/unit_days", "raw/exposures"],
    "results/causal_effect": ["frames/study_frame"],
    "results/bandit": ["frames/unit_days", "raw/exposures"],
    "decisions/verdict": ["results/sequential"],
    "reports/experiment_report": ["decisions/verdict"],
    "reports/exploration": ["frames/ratio_frame", "frames/user_frame"],
    "reports/portfolio": ["decisions/verdict"],
}
CHECKS = {
    ("raw/events", "landing_health", False),
    ("frames/user_frame", "user_frame_contract", True),
    ("frames/ratio_frame", "ratio_frame_contract", True),
    # Interventions: nothing is promoted when these fail, so nothing follows.
    ("frames/daily_series", "daily_series_contract", False),
    ("frames/study_frame", "study_frame_contract", False),
    ("results/sequential", "look_health", True),
    *(("results/causal_impact", name, False) for name in SERIES),
    *(("results/causal_effect", name, False) for name in OTHERS),
}


@pytest.fixture(scope="module")
def definitions(tmp_path_factory):
    project = shop_project(tmp_path_factory.mktemp("definitions"), n_users=10)
    return build_definitions(project.folder)


def test_the_graph_is_the_one_drawn_in_the_design(definitions):
    graph = definitions.resolve_asset_graph()
    found = {
        key.to_user_string(): sorted(
            parent.to_user_string() for parent in graph.get(key).parent_keys
        )
        for key in graph.get_all_asset_keys()
    }
    assert found == GRAPH


def test_checks_are_partitioned_and_the_right_ones_block(definitions):
    graph = definitions.resolve_asset_graph()
    found = set()
    for key in graph.asset_check_keys:
        check = graph.get(key)
        assert check.partitions_def is not None
        found.add((key.asset_key.to_user_string(), key.name, check.blocking))
    assert found == CHECKS


def test_experiments_and_interventions_are_dynamic_partitions(definitions):
    graph = definitions.resolve_asset_graph()
    partitions = {
        key.to_user_string(): graph.get(key).partitions_def for key in graph.get_all_asset_keys()
    }
    assert partitions["decisions/verdict"].name == "experiment"
    assert partitions["results/causal_impact"].name == "intervention"
    assert isinstance(partitions["raw/events"], dg.DailyPartitionsDefinition)


def test_jobs_schedules_and_sensors_have_their_names(definitions):
    repository = definitions.get_repository_def()
    assert set(repository.job_names) == {
        "__ASSET_JOB",
        "allocate_bandit",
        "estimate_intervention",
        "ingest_day",
        "nightly_looks",
        "run_look",
    }
    schedules = {schedule.name for schedule in repository.schedule_defs}
    assert schedules == {"daily_looks", "daily_bandits", "daily_interventions"}
    assert {sensor.name for sensor in repository.sensor_defs} == {
        "on_config_change",
        "on_new_files",
        "on_information",
        "on_check_failure",
        "reap_dead_runs",
    }


def import_definitions():
    """Wall seconds of the import in a fresh process, and the modules it loaded."""
    code = (
        "import sys, time; start = time.perf_counter(); import experiments_dagster.definitions; "
        "print(__import__('json').dumps([time.perf_counter() - start, sorted(sys.modules)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    return json.loads(done.stdout)


def test_importing_definitions_is_light():
    _, modules = import_definitions()
    assert [name for name in FORBIDDEN if name in modules] == []


@pytest.mark.alone
def test_importing_definitions_takes_less_than_three_seconds():
    # The first import may compile; of the rest the best, since a shared machine only adds to it.
    assert min(import_definitions()[0] for _ in range(5)) < 3


def test_workspace_and_pyproject_name_the_same_code_location():
    workspace = YAML(typ="safe").load((REPOSITORY / "workspace.yaml").read_text())
    module = workspace["load_from"][0]["python_module"]
    dg_project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    assert module["location_name"] == dg_project["code_location_name"]
    assert module["module_name"] == dg_project["code_location_target_module"]


def test_no_asset_stores_its_value(definitions):
    """Every output is Nothing or a MaterializeResult: Dagster's pickle storage is never used."""
    graph = definitions.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        assets_def = graph.get(key).assets_def
        assert not assets_def.op.ins or all(
            definition.dagster_type.is_nothing for definition in assets_def.op.ins.values()
        )
