"""Configuration mistakes, each with its file, line, path and rule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigIssue:
    """One mistake in one file. `path` is the dotted place inside the file, '' for the whole."""

    file: Path
    line: int | None
    path: str
    rule: str

    def __str__(self) -> str:
        line = f":{self.line}" if self.line is not None else ""
        place = f" {self.path}:" if self.path else ""
        return f"{self.file}{line}:{place} {self.rule}"


class ConfigError(ValueError):
    """One or more mistakes in configuration files; nothing was changed by reading them."""

    def __init__(self, issues: list[ConfigIssue]) -> None:
        self.issues = issues
        super().__init__("\n".join(str(issue) for issue in issues))
