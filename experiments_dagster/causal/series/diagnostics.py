"""Does the impact model predict the pre period? Residual checks and a hold-out.

With standardised one-step residuals e_t, t = 1..n:

    acf_k = Σ e_t e_{t-k} / Σ e_t²                     (e centred)
    Ljung-Box = n (n + 2) Σ_{k≤7} acf_k² / (n - k)      ~ χ²(7)
    Jarque-Bera = n/6 (skewness² + (kurtosis - 3)²/4)   ~ χ²(2)

The χ² laws ignore that parameters were estimated; read the values as a screen, not a test.

References:
    Ljung & Box 1978; Jarque & Bera 1987; Harvey 1989, section 5.4.
"""

from __future__ import annotations

import numpy as np

from experiments_dagster.causal.series.posterior import Posterior
from experiments_dagster.causal.series.prepare import PreparedSeries
from experiments_dagster.causal.series.records import Backtest, FloatArray, ImpactDiagnostics

N_LAGS = 7


def diagnose(
    prepared: PreparedSeries, posterior: Posterior, backtest: Backtest | None
) -> ImpactDiagnostics:
    """Compare the observed pre period with its one-step predictions."""
    from scipy.special import chdtrc

    mean, sd = posterior.one_step(prepared.columns)
    seen = prepared.is_observed
    residual = (prepared.columns[seen, 0] - mean[seen]) / sd[seen]
    error = prepared.spread * (prepared.columns[seen, 0] - mean[seen])
    pre = prepared.pre[seen]
    acf = autocorrelations(residual)
    n = len(residual)
    ljung_box = n * (n + 2) * np.sum(acf**2 / (n - np.arange(1, N_LAGS + 1)))
    return ImpactDiagnostics(
        r2_pre=float(1 - np.sum(error**2) / np.sum((pre - pre.mean()) ** 2)),
        rmse_pre=float(np.sqrt(np.mean(error**2))),
        mape_pre=float(np.mean(np.abs(error / pre))) if np.all(pre != 0) else None,
        acf=tuple(float(value) for value in acf),
        max_abs_acf=float(np.abs(acf).max()),
        ljung_box_p=float(chdtrc(N_LAGS, ljung_box)),
        normality_p=float(chdtrc(2, _jarque_bera(residual))),
        backtest=backtest,
    )


def autocorrelations(residual: FloatArray) -> FloatArray:
    """Return the autocorrelations at lags 1..7; all 0 where the residuals do not vary."""
    centred = residual - residual.mean()
    total = float(centred @ centred)
    if total == 0:
        return np.zeros(N_LAGS)
    lagged = [float(centred[k:] @ centred[:-k]) for k in range(1, N_LAGS + 1)]
    return np.array(lagged) / total


def _jarque_bera(residual: FloatArray) -> float:
    centred = residual - residual.mean()
    variance = np.mean(centred**2)
    if variance == 0:
        return 0.0
    skewness = np.mean(centred**3) / variance**1.5
    kurtosis = np.mean(centred**4) / variance**2
    return float(len(residual) / 6 * (skewness**2 + (kurtosis - 3) ** 2 / 4))
