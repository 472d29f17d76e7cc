"""Run a pandera schema on a collected frame and count what breaks, without showing any row.

A schema names the columns and their types; what every row must keep is one check of that schema,
so that all rules of a frame are counted in a single pass over it. Only rules that are not kept by
all rows are looked at a second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments_dagster.storage.errors import ContractError

if TYPE_CHECKING:
    import polars as pl
    from pandera.errors import SchemaErrors
    from pandera.polars import Column, DataFrameSchema

ROWS = "rows_keep_all_rules"


class Rule(NamedTuple):
    """What rows must keep.

    `suspects` is cheap and 0 only where no row breaks the rule; `broken` counts the rows that do.
    """

    suspects: pl.Expr
    broken: pl.Expr


def row_rule(is_fine: pl.Expr) -> Rule:
    """A rule on single rows; a row for which it is neither true nor false keeps it."""
    broken = (~is_fine).sum()
    return Rule(broken, broken)


def not_null(column: str) -> Rule:
    """No value is missing."""
    import polars as pl

    broken = pl.col(column).null_count()
    return Rule(broken, broken)


def is_unique(*columns: str) -> Rule:
    """No two rows have the same values; all rows that share theirs with another are counted.

    Different 64-bit hashes prove different values at a tenth of the cost of comparing text. Where
    two hashes are equal, by chance even, the values themselves are compared.
    """
    import polars as pl

    key = pl.col(columns[0]) if len(columns) == 1 else pl.struct(columns)
    return Rule(pl.len() - key.hash().n_unique(), key.is_duplicated().sum())


@dataclass(frozen=True, slots=True)
class Contract:
    """A pandera schema, and the rules of its row check by name, to say which were broken."""

    schema: DataFrameSchema
    rules: Mapping[str, Rule]


def make_contract(
    types: Mapping[str, Any], rules: Mapping[str, Rule], *, strict: bool = True
) -> Contract:
    """The contract of a table; making one costs more than checking a few rows, so keep it.

    Args:
        types: Polars type per expected column.
        rules: What rows must keep, by the name that a message shows.
        strict: Refuse columns that are not listed.

    Raises:
        ValueError: A rule is about a column that is not listed.
    """
    from pandera.polars import Check, Column, DataFrameSchema, PolarsData

    for name, rule in rules.items():
        unlisted = _roots(rule) - set(types)
        if unlisted:
            msg = f"the rule {name} is about columns without a type: {sorted(unlisted)}"
            raise ValueError(msg)

    def keeps_all_rules(data: PolarsData) -> bool:
        return not _broken(data.lazyframe, rules)

    columns = {name: Column(dtype, nullable=True) for name, dtype in types.items()}
    check = Check(keeps_all_rules, name=ROWS)
    return Contract(DataFrameSchema(columns, checks=check, strict=strict), rules)


def validate(
    table: str, subject: str, frame: pl.DataFrame, contract: Contract | dict[str, Column]
) -> None:
    """Check a frame against its contract.

    Args:
        table: Name of the table, for the message.
        subject: Which experiment or intervention, for the message.
        frame: Collected rows: pandera checks only the schema of a LazyFrame.
        contract: What holds; or one pandera column per expected column, and no others.

    Raises:
        ContractError: With the number of rows that break each rule.
    """
    from pandera.errors import SchemaErrors
    from pandera.polars import DataFrameSchema

    if not isinstance(contract, Contract):
        contract = Contract(DataFrameSchema(contract, strict=True), {})
    try:
        contract.schema.validate(frame, lazy=True)
    except SchemaErrors as error:
        counts = _schema_cases(table, error)
        counts |= _broken(frame.lazy(), _that_apply(contract, frame))
        raise ContractError(f"{table} of {subject}", counts) from None


def _schema_cases(table: str, error: SchemaErrors) -> dict[str, int]:
    """What pandera found wrong, the row check aside."""
    counts = {}
    for case in error.schema_errors:
        place = getattr(case.schema, "name", None) or table
        rule = getattr(case.check, "name", None) or str(case.reason_code.name).lower()
        if rule != ROWS:
            failed = case.failure_cases
            counts[f"{place} {rule}"] = int(getattr(failed, "height", 1) or 1)
    return counts


def _that_apply(contract: Contract, frame: pl.DataFrame) -> dict[str, Rule]:
    """The rules about columns that are there and have their type."""
    sound = {
        name
        for name, column in contract.schema.columns.items()
        if column.dtype.type == frame.schema.get(name)
    }
    return {name: rule for name, rule in contract.rules.items() if _roots(rule) <= sound}


def _roots(rule: Rule) -> set[str]:
    return {*rule.suspects.meta.root_names(), *rule.broken.meta.root_names()}


def _broken(rows: pl.LazyFrame, rules: Mapping[str, Rule]) -> dict[str, int]:
    """Number of rows that break each rule, for the rules that are broken."""
    if not rules:
        return {}
    suspects = rows.select(rule.suspects.alias(name) for name, rule in rules.items()).collect()
    suspected = [name for name, n in suspects.row(0, named=True).items() if n]
    if not suspected:
        return {}
    broken = rows.select(rules[name].broken.alias(name) for name in suspected).collect()
    return {name: int(n) for name, n in broken.row(0, named=True).items() if n}
