"""What can be wrong with stored data.

StorageError                     base; exit code 4 on the command line
├── DataDamagedError             a file is not what the manifest or ledger says
├── BusyError                    another process holds the lock
└── ContractError                a table breaks its contract (exit code 3)
"""

from __future__ import annotations

from pathlib import Path


class StorageError(RuntimeError):
    """Something about stored data stops the work; the data are left as they are."""


class DataDamagedError(StorageError):
    """A stored file is missing, cut or changed."""

    def __init__(self, file: Path, rule: str, hint: str) -> None:
        self.file = file
        super().__init__(f"{file}: {rule}. Hint: {hint}")


class BusyError(StorageError):
    """Another process is doing the same work right now."""


class ContractError(StorageError):
    """Rows of a table break its contract. Holds counts per rule, never rows or ids."""

    def __init__(self, table: str, cases: dict[str, int]) -> None:
        self.table = table
        self.cases = cases
        listed = "; ".join(f"{rule}: {count} rows" for rule, count in cases.items())
        super().__init__(f"{table} breaks its contract: {listed}")
