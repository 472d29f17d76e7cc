"""Read one YAML file strictly: YAML 1.2, no duplicate keys, no tags, lines remembered.

YAML 1.2 reads `1e-3` as a number, `NO` and `12:30:00` as text. Files above 1 MiB and more than
`MAX_ALIASES` aliases are refused before anything is built from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, NodeEvent

from experiments_dagster.config.errors import ConfigError, ConfigIssue

MAX_BYTES = 1 << 20
MAX_ALIASES = 50

Location = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class YamlFile:
    """Plain data of one file and the line (from 1) of each place in it."""

    file: Path
    data: dict[str, Any]
    lines: dict[Location, int]

    def line_of(self, location: Location) -> int | None:
        """The line of a place, or of its nearest ancestor that stands in the file."""
        for length in range(len(location), -1, -1):
            if location[:length] in self.lines:
                return self.lines[location[:length]]
        return None

    def issue(self, location: Location, rule: str) -> ConfigIssue:
        """A mistake at one place of this file."""
        return ConfigIssue(
            file=self.file,
            line=self.line_of(location),
            path=".".join(str(part) for part in location),
            rule=rule,
        )


def read_yaml(file: Path) -> YamlFile:
    """Read a YAML mapping.

    Raises:
        ConfigError: The file is missing, too large, not YAML, not a mapping, has a duplicate
            key, a tag, or too many aliases.
    """
    text = _read_text(file)
    try:
        _refuse_tricks(file, text)
        yaml = YAML(typ="rt", pure=True)
        yaml.allow_duplicate_keys = False
        node = yaml.load(StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        rule = (error.problem or str(error)).splitlines()[0]
        raise ConfigError([ConfigIssue(file=file, line=line, path="", rule=rule)]) from None
    except YAMLError as error:
        rule = str(error).splitlines()[0]
        raise ConfigError([ConfigIssue(file=file, line=None, path="", rule=rule)]) from None
    lines: dict[Location, int] = {(): 1}
    data = _plain(node, (), lines)
    if not isinstance(data, dict):
        rule = f"must be a mapping, got {type(data).__name__}"
        raise ConfigError([ConfigIssue(file=file, line=1, path="", rule=rule)])
    return YamlFile(file=file, data=data, lines=lines)


def _read_text(file: Path) -> str:
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            rule = f"file has {size} bytes, at most {MAX_BYTES} are read"
            raise ConfigError([ConfigIssue(file=file, line=None, path="", rule=rule)])
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        rule = f"cannot be read: {reason}"
        raise ConfigError([ConfigIssue(file=file, line=None, path="", rule=rule)]) from None


def _refuse_tricks(file: Path, text: str) -> None:
    aliases = 0
    for event in YAML(typ="rt", pure=True).parse(StringIO(text)):
        rule = ""
        if isinstance(event, AliasEvent):
            aliases += 1
            rule = f"more than {MAX_ALIASES} aliases" if aliases > MAX_ALIASES else ""
        elif isinstance(event, NodeEvent) and str(getattr(event, "tag", None) or "") not in ("", "!"):
            rule = f"tag {event.tag} is not allowed; write plain values"
        if rule:
            line = event.start_mark.line + 1
            raise ConfigError([ConfigIssue(file=file, line=line, path="", rule=rule)])


def _plain(node: Any, location: Location, lines: dict[Location, int]) -> Any:
    if isinstance(node, dict):
        for key in node:
            lines[(*location, key)] = node.lc.key(key)[0] + 1
        return {key: _plain(value, (*location, key), lines) for key, value in node.items()}
    if isinstance(node, list):
        for index in range(len(node)):
            lines[(*location, index)] = node.lc.item(index)[0] + 1
        return [_plain(value, (*location, index), lines) for index, value in enumerate(node)]
    if isinstance(node, bool) or node is None:
        return node
    if isinstance(node, str):
        return str(node)
    if isinstance(node, float):
        return float(node)
    if isinstance(node, int):
        return int(node)
    return node
