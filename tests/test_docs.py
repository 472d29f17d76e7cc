"""What the documentation says holds: its YAML validates, its commands exist, its links resolve."""

import re
from pathlib import Path

import pytest
import typer.main

from experiments_dagster.cli import app
from experiments_dagster.config import intervention, study_data
from experiments_dagster.config.base import Spec
from experiments_dagster.config.project import read_project

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
CONFIGURATION = (REPOSITORY / "docs" / "configuration.md").read_text()


def test_the_example_configuration_validates(tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", CONFIGURATION, re.DOTALL)
    interventions = ["spring", "spring_panel", "spring_units"]
    names = ["platform", "metrics", "experiments/checkout"]
    names += [f"interventions/{name}" for name in interventions]
    for name, block in zip(names, blocks, strict=True):
        path = tmp_path / "configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block)
    project, issues = read_project(tmp_path)
    assert issues == []
    assert project.experiments.keys() == {"checkout"}
    assert list(project.interventions) == interventions


def test_every_field_of_an_intervention_is_explained():
    section = CONFIGURATION.split("## configs/interventions/", 1)[1]
    words = set(re.findall(r"\w+", section))
    for module in (study_data, intervention):
        for model in vars(module).values():
            if isinstance(model, type) and issubclass(model, Spec):
                assert set(model.model_fields) <= words, model.__name__
    kinds = set(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))
    assert {f"`{kind}`" for kind in intervention.FAMILIES} <= {
        name for row in kinds for name in row.split(", ")
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_named_exists(page):
    commands = set(typer.main.get_command(app).commands)
    named = set(re.findall(r"`experiments ([a-z-]+)", page.read_text()))
    named |= set(re.findall(r"^experiments ([a-z-]+)", page.read_text(), re.MULTILINE))
    assert named <= commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_picture_is_there(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_makefile_has_the_targets_that_the_readme_names():
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"make ([a-z]+)", (REPOSITORY / "README.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize(
    "name", ["requirements.lock", "requirements-all.lock", "requirements-uv.lock"]
)
def test_lock_files_pin_by_hash_and_name_no_address(name):
    text = (REPOSITORY / name).read_text()
    requirements = re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE)
    assert requirements
    assert "http" not in re.sub(r"^(httptools|httpx?|httpcore)\S*", "", text, flags=re.MULTILINE)
    blocks = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in block for block in blocks)
