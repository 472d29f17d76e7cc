"""Read one YAML file strictly: YAML 1.2, no duplicate keys, no tags, lines remembered.

YAML 1.2 reads `1e-3` as a number, `NO` and `12:30:00` as text. Files above 1 MiB and more than
`MAX_ALIASES` aliases are refused before anything is built from them; what aliases multiply is
cut off at `MAX_NODES` values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
)

from experiments_dagster.config.errors import ConfigError, ConfigIssue

MAX_BYTES = 1 << 20
MAX_ALIASES = 50
MAX_NODES = 200_000
MAX_DEPTH = 50

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
            key, a key that is no text, a tag, a %YAML directive, or too many aliases.
    """
    text = _read_text(file)
    plain = _Plain(file)
    try:
        _refuse_tricks(file, text)
        yaml = YAML(typ="rt", pure=True)
        yaml.allow_duplicate_keys = False
        data = plain.of(yaml.load(StringIO(text)), ())
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        rule = (error.problem or str(error)).splitlines()[0]
        raise ConfigError([ConfigIssue(file=file, line=line, path="", rule=rule)]) from None
    except YAMLError as error:
        rule = str(error).splitlines()[0]
        raise ConfigError([ConfigIssue(file=file, line=None, path="", rule=rule)]) from None
    except ValueError as error:  # a date or number that looks like one and is none: 2026-02-30
        if isinstance(error, ConfigError):
            raise
        raise ConfigError([ConfigIssue(file=file, line=None, path="", rule=str(error))]) from None
    if not isinstance(data, dict):
        rule = f"must be a mapping, got {type(data).__name__}"
        raise ConfigError([ConfigIssue(file=file, line=1, path="", rule=rule)])
    return YamlFile(file=file, data=data, lines=plain.lines)


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
    if not _can_hide_tricks(text):
        return
    aliases = depth = 0
    for event in YAML(typ="rt", pure=True).parse(StringIO(text)):
        aliases += isinstance(event, AliasEvent)
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        rule = ""
        if aliases > MAX_ALIASES:
            rule = f"more than {MAX_ALIASES} aliases"
        elif depth > MAX_DEPTH:
            rule = f"nested more than {MAX_DEPTH} deep"
        elif isinstance(event, DocumentStartEvent) and event.version:
            rule = "a %YAML directive is not allowed; files are YAML 1.2"
        elif (tag := str(getattr(event, "tag", None) or "")) not in ("", "!"):
            rule = f"tag {tag} is not allowed; write plain values"
        if rule:
            line = event.start_mark.line + 1
            raise ConfigError([ConfigIssue(file=file, line=line, path="", rule=rule)])


def _can_hide_tricks(text: str) -> bool:
    """Whether a second parse is worth it: most files have no sign of an alias, tag or depth."""
    deepest = max((len(line) - len(line.lstrip()) for line in text.splitlines()), default=0)
    opened = deepest + text.count("[") + text.count("{") + text.count("- ") + text.count("? ")
    return opened > MAX_DEPTH or any(sign in text for sign in "&*!%")


@dataclass(slots=True)
class _Plain:
    """Turns the parser's objects into plain data and remembers the line of each place."""

    file: Path
    lines: dict[Location, int] = field(default_factory=lambda: {(): 1})
    nodes: int = 0

    def of(self, node: Any, location: Location) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            self._refuse(location, f"more than {MAX_NODES} values, counting what aliases repeat")
        if isinstance(node, CommentedMap):
            # Keys that come from a merge (<<) have no line of their own.
            own = node.lc.data or {}
            for key in node:
                place = (*location, key)
                if key in own:
                    self.lines[place] = node.lc.key(key)[0] + 1
                if not isinstance(key, str):
                    self._refuse(place, f"keys must be text, got {key!r}")
            return {str(key): self.of(value, (*location, key)) for key, value in node.items()}
        if isinstance(node, CommentedSeq):
            for index in range(len(node)):
                self.lines[*location, index] = node.lc.item(index)[0] + 1
            return [self.of(value, (*location, index)) for index, value in enumerate(node)]
        for kind in (bool, str, float, int):
            if isinstance(node, kind):
                return kind(node)
        return node

    def _refuse(self, location: Location, rule: str) -> NoReturn:
        known = YamlFile(file=self.file, data={}, lines=self.lines)
        raise ConfigError(
            [ConfigIssue(file=self.file, line=known.line_of(location), path="", rule=rule)]
        )
