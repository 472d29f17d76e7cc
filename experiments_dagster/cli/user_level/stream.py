"""`sequential-simulate`: a stream with a known truth, and its analysis.

    y    noise + drift + effect·1{test}
    num  max(0, (1 + drift + effect·1{test})·den + noise),   den ~ 1 + Poisson(3)

Noise is normal, or t with 3 degrees of freedom, times `noise_sd`; drift rises to half of it over
the stream. A seed gives the stream that it gave tecore.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from experiments_dagster.cli.user_level.bundle import Outcome
from experiments_dagster.cli.user_level.rows import ArmColumns
from experiments_dagster.cli.user_level.sequential_file import analyse_table
from experiments_dagster.cli.user_level.sequential_request import (
    SequentialRequest,
    StreamColumns,
)

HEAVY_TAIL_DF = 3
MEAN_DENOMINATOR = 3.0
DRIFT_SHARE = 0.5
LARGEST_STREAM = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTruth:
    """What the stream is made of.

    Args:
        n: Rows.
        effect: Added to every test row, or to the rate of a ratio.
        noise_sd: Of the normal noise; the scale of the heavy-tailed one.
        heavy_tail: Noise with 3 degrees of freedom.
        drift: The level rises by half a noise_sd over the stream.
        ratio: Numerator and denominator instead of an outcome.
        seed: Of the generator.
    """

    n: int = 20_000
    effect: float = 0.0
    noise_sd: float = 1.0
    heavy_tail: bool = False
    drift: bool = False
    ratio: bool = False
    seed: int = 42

    def check(self) -> None:
        """Refuse values outside their range.

        Raises:
            ValueError: The flag, its value and the rule.
        """
        if not 1 < self.n <= LARGEST_STREAM:
            msg = f"--n {self.n}: must be from 2 to {LARGEST_STREAM}"
            raise ValueError(msg)
        if not (np.isfinite(self.noise_sd) and self.noise_sd >= 0 and np.isfinite(self.effect)):
            msg = (
                f"--noise-sd {self.noise_sd}, --effect {self.effect}: must be finite, and the sd "
                "not below 0"
            )
            raise ValueError(msg)
        if self.seed < 0:
            msg = f"--seed {self.seed}: must not be below 0"
            raise ValueError(msg)


def simulate_stream(truth: StreamTruth) -> pl.DataFrame:
    """Draw a stream: unit_id, group, timestamp, and y or num and den."""
    rng = np.random.default_rng(truth.seed)
    n = truth.n
    is_test = rng.random(n) >= 0.5  # noqa: PLR2004
    noise = truth.noise_sd * (
        rng.standard_t(HEAVY_TAIL_DF, n) if truth.heavy_tail else rng.standard_normal(n)
    )
    level = truth.effect * is_test
    if truth.drift:
        level = level + np.arange(n) / (n - 1) * DRIFT_SHARE * truth.noise_sd
    columns = {"unit_id": np.arange(n), "group": np.where(is_test, "test", "control")}
    if truth.ratio:
        den = 1.0 + rng.poisson(MEAN_DENOMINATOR, n)
        columns |= {"num": np.maximum((1.0 + level) * den + noise, 0.0), "den": den}
    else:
        columns["y"] = noise + level
    return pl.DataFrame(columns | {"timestamp": np.arange(n)})


def analyse_stream(
    truth: StreamTruth, request: SequentialRequest, *, has_audit: bool = False
) -> Outcome:
    """Draw a stream and analyse it as the other commands would.

    Raises:
        ValueError: A flag outside its range.
    """
    truth.check()
    table = simulate_stream(truth)
    columns = StreamColumns(
        arms=ArmColumns(group="group", control="control", test="test", unit="unit_id"),
        timestamp="timestamp",
        y=None if truth.ratio else "y",
        num="num" if truth.ratio else None,
        den="den" if truth.ratio else None,
    )
    outcome = analyse_table(
        "sequential-simulate", Path("data.csv"), table, columns, request, has_audit=has_audit
    )
    plan = {name: outcome.inputs[name] for name in ("mode", "alpha", "spending")}
    return replace(
        outcome,
        inputs={"sim_config": asdict(truth), **plan},
        diagnostics={**outcome.diagnostics, "true_effect": truth.effect},
        texts={"data.csv": table.write_csv()},
    )
