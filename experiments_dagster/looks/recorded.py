"""The recorded looks of a ledger as records, checked once each."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from experiments_dagster.looks.records import Look
from experiments_dagster.storage.ledger import Ledger

# Head hash to look, per open ledger; gone with the ledger.
_CHECKED: WeakKeyDictionary[Ledger, dict[str, Look]] = WeakKeyDictionary()


def recorded_looks(ledger: Ledger) -> list[Look]:
    """The recorded looks of a ledger, in order."""
    known = _CHECKED.get(ledger, {})
    looks = {
        head: known.get(head) or Look.model_validate(document)
        for head, document in zip(ledger.heads, ledger.looks, strict=True)
    }
    _CHECKED[ledger] = looks
    return list(looks.values())
