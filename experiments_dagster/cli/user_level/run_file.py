"""`run --config`: one of the commands with its flags, from a YAML file.

    command: cuped            input: data.csv      out: out/cuped      audit: true
    params: {y: revenue, x: revenue_pre, winsor-q: 0.99}

A parameter is a flag without its dashes, in snake_case or kebab-case, so every default and every
rule is that of the command itself.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, NoReturn

from experiments_dagster.config.errors import ConfigError
from experiments_dagster.config.yaml_file import YamlFile, read_yaml

KEYS = ("command", "input", "out", "audit", "params", "schema")
COMMANDS = (
    *("validate", "audit", "cuped", "cuped-ratio", "sequential-mean", "sequential-ratio"),
    *("sequential-simulate", "causal-impact", "impact"),
)
WITHOUT_INPUT = ("sequential-simulate",)


def command_line(file: Path) -> list[str]:
    """The command and its flags that a file stands for.

    Raises:
        ConfigError: A key that is not known, a value of the wrong kind, or no command.
    """
    document = read_yaml(file)
    command = _checked_command(document)
    data = document.data
    known = _flags_of(command)
    flags = {key: data[key] for key in ("input", "out", "audit", "schema") if data.get(key)}
    if command == "audit":
        flags.pop("audit", None)  # it is one
    for key in flags:
        if key not in known:
            _refuse(document, (key,), f"{command} takes no {key}")
    for name, value in (data.get("params") or {}).items():
        flag = name.replace("_", "-")
        if flag not in known:
            rule = f"{command} has no flag --{flag}; known: {', '.join(known)}"
            _refuse(document, ("params", name), rule + _guess(flag, known))
        if flag in flags:
            _refuse(document, ("params", name), "is given twice")
        flags[flag] = value
    arguments = [command]
    for flag, value in flags.items():
        arguments += _argument(document, flag, value)
    return arguments


def _flags_of(command: str) -> tuple[str, ...]:
    """The flags of a command without their dashes."""
    import typer

    from experiments_dagster.cli.app import app

    # Of the program that is there: a list of ours would have to be kept up with it.
    group: Any = typer.main.get_command(app)
    options = (name for parameter in group.commands[command].params for name in parameter.opts)
    return tuple(name.removeprefix("--") for name in options if name.startswith("--"))


def _checked_command(document: YamlFile) -> str:
    """The command, once every key is known to be of the right kind."""
    data = document.data
    for key in data:
        if key not in KEYS:
            _refuse(document, (key,), f"unknown key; known: {', '.join(KEYS)}{_guess(key, KEYS)}")
    command = str(data.get("command") or "").replace("_", "-")
    if command not in COMMANDS:
        _refuse(document, ("command",), f"must be one of {', '.join(COMMANDS)}, got {command!r}")
    if data.get("input") is None and command not in WITHOUT_INPUT:
        _refuse(document, ("input",), f"is missing; {command} reads a file")
    if not isinstance(data.get("params") or {}, dict):
        _refuse(document, ("params",), "must be a mapping of flags to values")
    if not isinstance(data.get("audit", False), bool):
        _refuse(document, ("audit",), "must be true or false")
    return command


def _argument(document: YamlFile, flag: str, value: Any) -> list[str]:
    """A flag with its value; false and null leave it out, a list is joined by commas."""
    if value is None or value is False:
        return []
    if value is True:
        return [f"--{flag}"]
    if isinstance(value, list):
        value = ",".join(str(part) for part in value)
    if isinstance(value, dict):
        if not all(isinstance(part, (str, int, float)) for part in value.values()):
            _refuse(document, ("params", flag), "must be a plain value")
        value = ",".join(f"{name}={part}" for name, part in value.items())
    # One word, so that a value such as -1 is not read as a flag.
    return [f"--{flag}={value}"]


def _guess(key: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f". Did you mean {close[0]}?" if close else ""


def _refuse(document: YamlFile, place: tuple[str, ...], rule: str) -> NoReturn:
    raise ConfigError([document.issue(place, rule)])
