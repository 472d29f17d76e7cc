"""Every method by name: what it estimates, from what, when it is valid, and what checks it.

The README's table of methods is made from here (`python -m experiments_dagster.stats.registry`) and
a test holds the two together. `function` is a dotted name, so that listing imports nothing: neither
the methods of `stats` nor those of `causal`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

Input = Literal[
    "moments",
    "units",
    "events",
    "counts",
    "p-values",
    "looks",
    "numbers",
    "series",
    "panel",
    "pairs",
]

STATS = "experiments_dagster.stats."
CAUSAL = "experiments_dagster.causal."
COLUMNS = ("method", "estimand", "input", "valid", "reference", "verified by")


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One row of the table of methods.

    Args:
        name: What results, configuration or the command line call it.
        estimand: What the number is.
        input: What it reads.
        validity: When its error rates hold.
        reference: Author and year.
        verified_by: Reference case as `area/case:keys`, or the independent check.
        function: Dotted name.
    """

    name: str
    estimand: str
    input: Input
    validity: str
    reference: str
    verified_by: str
    function: str

    def resolve(self) -> Callable[..., Any]:
        """Import the function."""
        module, _, name = self.function.rpartition(".")
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return found


def _methods(
    rows: Iterable[tuple[str, str, Input, str, str, str, str]], root: str = STATS
) -> tuple[Method, ...]:
    """Rows as records; the last entry of a row is the function's name below `root`."""
    return tuple(
        Method(
            name=name,
            estimand=estimand,
            input=read,
            validity=validity,
            reference=reference,
            verified_by=verified_by,
            function=root + function,
        )
        for name, estimand, read, validity, reference, verified_by, function in rows
    )


FIXED = _methods(
    (
        (
            "welch",
            "difference of means",
            "moments",
            "fixed horizon; n per arm above 355 skew²",
            "Welch 1947",
            "fixed/cookie_cats:welch_*",
            "methods.moments.mean.compare_means",
        ),
        (
            "pooled_z",
            "difference of proportions",
            "moments",
            "fixed horizon; 5 expected per cell",
            "Miettinen & Nurminen 1985; Newcombe 1998",
            "fixed/cookie_cats:prop_*",
            "methods.moments.proportion.compare_proportions",
        ),
        (
            "fisher",
            "odds ratio",
            "counts",
            "exact, conservative; up to 1e6 units",
            "Fisher 1935",
            "scipy; R fisher.test",
            "methods.moments.fisher.fisher_exact",
        ),
        (
            "chi-square, Monte Carlo",
            "independence of arm and outcome",
            "counts",
            "fixed horizon; Monte Carlo where cells are sparse",
            "Pearson 1900",
            "fixed/hillstrom_half_multiarm:chi2_visit",
            "methods.moments.fisher.contingency_monte_carlo",
        ),
        (
            "ratio",
            "difference of ratios of totals",
            "moments",
            "large samples",
            "Deng, Knoblich & Lu 2018",
            "fixed/cookie_cats:ratio_*",
            "methods.moments.ratio.compare_ratios",
        ),
        (
            "lift: delta, Fieller",
            "relative difference",
            "moments",
            "large samples; Fieller where the control mean is noisy",
            "Fieller 1954",
            "fixed/cookie_cats:rel_lift_*",
            "relative.relative_estimate",
        ),
        (
            "quantile",
            "difference of quantiles of units or events",
            "events",
            "10 values beyond the quantile per arm; units are the clusters",
            "Deng et al. 2018; Liu et al. 2019",
            "cluster bootstrap; calibration",
            "methods.units.quantile.compare_quantiles",
        ),
        (
            "bootstrap",
            "difference of means or ratios",
            "units",
            "large samples; percentile or t",
            "Efron & Tibshirani 1993; Chamandy et al. 2012",
            "fixed/hillstrom_half_mens:welch_visit",
            "methods.units.bootstrap.compare_by_bootstrap",
        ),
        (
            "mann_whitney",
            "P(T > C) + P(T = C)/2 - 1/2",
            "units",
            "fixed horizon; not a mean",
            "Mann & Whitney 1947",
            "fixed/cookie_cats:mw_sum_gamerounds",
            "methods.units.mann_whitney.compare_ranks",
        ),
        (
            "permutation",
            "sharp null of no effect on any unit",
            "units",
            "exact by the actual mechanism",
            "Fisher 1935; Chung & Romano 2013",
            "enumeration; scipy",
            "methods.units.permutation.permutation_test",
        ),
        (
            "log1p",
            "difference of means of log(1 + y)",
            "units",
            "fixed horizon; never turned back into money",
            "Welch 1947",
            "welch on logs",
            "methods.units.transforms.compare_log_means",
        ),
        (
            "trimmed",
            "difference of trimmed means",
            "units",
            "fixed horizon",
            "Yuen 1974",
            "scipy ttest_ind(trim)",
            "methods.units.trimmed.compare_trimmed",
        ),
        (
            "non_inferiority",
            "effect against a margin",
            "moments",
            "one-sided",
            "Schuirmann 1987",
            "shifted Welch test",
            "methods.moments.non_inferiority.non_inferiority",
        ),
        (
            "equivalence",
            "effect within a margin (TOST)",
            "moments",
            "two one-sided tests",
            "Schuirmann 1987",
            "statsmodels ttost_ind",
            "methods.moments.equivalence.equivalence",
        ),
        (
            "welch_anova",
            "any difference between several means",
            "moments",
            "fixed horizon",
            "Welch 1951",
            "statsmodels anova_oneway",
            "methods.moments.omnibus.welch_anova",
        ),
        (
            "dunnett",
            "several treatments against one control",
            "moments",
            "family-wise",
            "Dunnett 1955, 1964",
            "published tables; scipy",
            "dunnett.compare_with_control",
        ),
        (
            "cells",
            "means and ratios of many cells at once",
            "moments",
            "as the single comparisons",
            "Welch 1947; Deng et al. 2018",
            "equal to compare_means, compare_ratios",
            "cells.compare_mean_cells",
        ),
    )
)
ADJUSTED = _methods(
    (
        (
            "lin (CUPED)",
            "difference of means",
            "units",
            "large samples; covariates from before exposure",
            "Lin 2013; MacKinnon & White 1985",
            "fixed/nsw_experimental:cuped_re78_by_re75",
            "methods.units.lin.compare_adjusted",
        ),
        (
            "cuped_pooled_theta",
            "difference of means",
            "units",
            "large samples",
            "Deng, Xu, Kohavi & Walker 2013",
            "fixed/nsw_experimental:cuped_re78_by_re74",
            "methods.units.pooled_theta.cuped_pooled_theta",
        ),
        (
            "ratio, adjusted",
            "difference of ratios of totals",
            "units",
            "large samples",
            "Deng et al. 2023",
            "equal to lin where D = 1",
            "methods.units.ratio_adjusted.compare_ratios_adjusted",
        ),
        (
            "augmented",
            "that of the scores it is given",
            "units",
            "large samples; quantiles and ratios alike",
            "Deng et al. 2023",
            "equal to lin for means",
            "methods.units.augmented.augment",
        ),
        (
            "out-of-fold prediction (CUPAC)",
            "a covariate for lin",
            "units",
            "trained on the pre-period alone",
            "Tang et al. 2020",
            "dense ridge algebra; calibration",
            "methods.units.cross_fitted.out_of_fold_predictions",
        ),
        (
            "post_stratified",
            "difference of means",
            "units",
            "strata from before exposure",
            "Miratrix, Sekhon & Yu 2013",
            "saturated lin",
            "methods.units.post_stratified.compare_post_stratified",
        ),
        (
            "clustered",
            "difference of means or ratios, clusters randomised",
            "units",
            "delta from 400 clusters, CR2 below, randomisation below 15",
            "Bell & McCaffrey 2002; Imbens & Kolesár 2016",
            "dense CR2; Stata; statsmodels CR1",
            "methods.units.clustered.compare_clustered",
        ),
    )
)
SEQUENTIAL = _methods(
    (
        (
            "Lan-DeMets spending",
            "boundaries at any information",
            "looks",
            "planned information, independent increments",
            "Lan & DeMets 1983",
            "sequential/bounds_ldof_K5_2s05",
            "sequential.boundaries.solve_boundaries",
        ),
        (
            "classic designs",
            "boundaries at given information",
            "looks",
            "planned looks",
            "Pocock 1977; O'Brien & Fleming 1979; Wang & Tsiatis 1987",
            "sequential/bounds_obf_K5",
            "sequential.boundaries.design_boundaries",
        ),
        (
            "futility, non-binding",
            "lower boundaries",
            "looks",
            "costs no type I error when ignored",
            "Pampallona & Tsiatis 1994",
            "sequential/design_asof_bsof_nonbind",
            "sequential.futility.futility_design",
        ),
        (
            "repeated p and interval",
            "effect at any look",
            "looks",
            "stopped or not",
            "Jennison & Turnbull 2000",
            "sequential/analysis_of4_stop3",
            "sequential.adjusted.repeated_p_value",
        ),
        (
            "stagewise, median-unbiased",
            "effect after stopping",
            "looks",
            "at the stop",
            "Tsiatis, Rosner & Mehta 1984",
            "sequential/analysis_pocock3_final",
            "sequential.adjusted.analyse_stopped",
        ),
        (
            "confidence sequence",
            "running effect",
            "looks",
            "at all looks at once, asymptotically",
            "Howard et al. 2021; Waudby-Smith et al. 2024",
            "anytime/acs",
            "sequential.confidence_sequence.confidence_sequence",
        ),
        (
            "longitudinal boundary",
            "boundaries of open-ended metrics",
            "looks",
            "scores of all looks",
            "Ankargren, Frånberg & Schultzberg 2023",
            "simulation; 8.3 under independent increments",
            "sequential.longitudinal.longitudinal_boundary",
        ),
        (
            "honest extension",
            "level left for new data",
            "looks",
            "before the planned end",
            "Müller & Schäfer 2001",
            "simulation; multivariate normal",
            "sequential.extension.extension_plan",
        ),
        (
            "e-values",
            "evidence at any time",
            "looks",
            "averages, products, e-BH",
            "Wang & Ramdas 2022",
            "anytime/msprt",
            "sequential.e_values.mean_log_e",
        ),
    )
)
AROUND = _methods(
    (
        (
            "bonferroni, holm, hochberg, bh, by",
            "adjusted p-values",
            "p-values",
            "by family",
            "Holm 1979; Benjamini & Hochberg 1995",
            "fixed/bh1995_pvalues",
            "multiplicity.adjusted_p_values",
        ),
        (
            "sample ratio, chi-square",
            "arm shares",
            "counts",
            "once, at the planned end",
            "Pearson 1900",
            "fixed/cookie_cats:srm_50_50",
            "design.sample_ratio.chi_square",
        ),
        (
            "sample ratio, e-value",
            "arm shares",
            "counts",
            "at any look",
            "Lindon & Malek 2022",
            "anytime/srm_seq",
            "design.sample_ratio.sequential_log_e_value",
        ),
        (
            "sample ratio by segment, onset day",
            "arm shares by level and day",
            "counts",
            "Holm over levels, E/L at any time",
            "Lindon & Malek 2022",
            "scipy; planted change points",
            "design.sample_ratio_segments.sample_ratio_by_level",
        ),
        (
            "power of means and ratios",
            "sample size, power, detectable effect",
            "numbers",
            "z or noncentral t",
            "Cohen 1988",
            "power/r_power_t",
            "design.power.mean_power",
        ),
        (
            "power of proportions",
            "sample size, power, detectable effect",
            "numbers",
            "five named variance formulas",
            "Cohen 1988; R power.prop.test",
            "power/r_power_prop",
            "design.proportion_power.proportion_power",
        ),
        (
            "power of the decision rule",
            "probability to ship, expected end",
            "numbers",
            "success and guardrails together",
            "Schultzberg, Ankargren & Frånberg 2024",
            "sequential/design_of5_2s_p90",
            "design.rule_power.rule_power",
        ),
        (
            "shrunk estimate",
            "effect given a prior",
            "numbers",
            "beside the raw one",
            "Lee & Shen 2018",
            "meta/bcg",
            "shrinkage.shrunk_estimate",
        ),
        (
            "false-positive risk, Twyman",
            "how far to believe a win",
            "numbers",
            "beside the result",
            "Kohavi, Deng & Vermeer 2022",
            "published table",
            "trust.false_positive_risk",
        ),
        (
            "novelty",
            "trend of the effect over days since exposure",
            "units",
            "7 days and more",
            "Aitken 1936",
            "statsmodels GLS",
            "novelty.novelty_test",
        ),
        (
            "segments",
            "effect in one level against the rest",
            "units",
            "exploratory, corrected",
            "Cochran 1954",
            "statsmodels combine_effects",
            "heterogeneity.segment_heterogeneity",
        ),
    )
)
LEARNING = _methods(
    (
        (
            "meta-analysis",
            "mean effect over studies, its spread, prediction",
            "numbers",
            "independent studies; 3 or more for τ²",
            "Hartung & Knapp 2001; Viechtbauer 2005",
            "meta/bcg:REML_HK",
            "meta_analysis.pool_studies",
        ),
        (
            "factorial",
            "main effects and interactions of 2^k",
            "units",
            "fixed horizon; Holm within order",
            "Yates 1937; Bell & McCaffrey 2002",
            "bayes/factorial_toothgrowth",
            "factorial.factorial_effects",
        ),
        (
            "interaction of experiments",
            "effect by the arm of another experiment",
            "units",
            "100 units per cell; independent arms",
            "MacKinnon & White 1985",
            "statsmodels OLS HC2",
            "interaction.interaction_of_means",
        ),
        (
            "complier effect",
            "effect on compliers (CACE)",
            "units",
            "exclusion, monotonicity; Anderson-Rubin if F < 10",
            "Imbens & Angrist 1994",
            "statsmodels IV2SLS",
            "noncompliance.complier_effect",
        ),
        (
            "best arm (Bayes)",
            "P(best), expected loss",
            "numbers",
            "given the prior; no error control by stopping",
            "Scott 2010; Miller 2014",
            "bayes/beta_binomial",
            "bayesian.best_arm.best_arm",
        ),
        (
            "gamma-Poisson",
            "P(λ₂ > λ₁)",
            "counts",
            "Poisson counts, given the prior",
            "Miller 2014",
            "bayes/gamma_poisson",
            "bayesian.gamma_poisson.probability_higher",
        ),
        (
            "effect posterior",
            "effect, P(θ > 0), expected loss",
            "numbers",
            "normal estimate, given the prior",
            "Azevedo et al. 2020",
            "Bayes' theorem on a grid",
            "bayesian.normal.effect_posterior",
        ),
        (
            "Thompson shares",
            "P(best) above a floor",
            "numbers",
            "allocation, not inference",
            "Thompson 1933",
            "draws of the posteriors",
            "bandits.thompson.next_shares",
        ),
        (
            "regret",
            "mean regret",
            "numbers",
            "Bernoulli rewards, simulated",
            "Lai & Robbins 1985; Kaufmann et al. 2012",
            "bayes/lai_robbins:const",
            "bandits.regret.simulate_regret",
        ),
        (
            "adaptive: weighted_ipw",
            "difference of means",
            "moments",
            "shares known beforehand; about 50 units per arm and period",
            "Hadad et al. 2021",
            "calibration; unit-level formula",
            "bandits.adaptive.weighted_ipw",
        ),
        (
            "adaptive: within_periods",
            "difference of means",
            "moments",
            "shares known beforehand; about 50 units per arm and period",
            "Zhang, Janson & Murphy 2020",
            "calibration; formula by hand",
            "bandits.adaptive.within_periods",
        ),
    )
)
WITHOUT_RANDOMISATION = _methods(
    (
        (
            "impact",
            "observed minus counterfactual: total, average, relative",
            "series",
            "covariates untouched; 30 days or 20 weeks before",
            "Brodersen et al. 2015; Harvey 1989",
            "timeseries/causalimpact_google",
            "series.impact.estimate_impact",
        ),
        (
            "scaled_control (did of a series)",
            "total against a control scaled before the start",
            "series",
            "stationary difference; AR(1) errors",
            "Harvey 1989; Bertrand, Duflo & Mullainathan 2004",
            "formula by hand; coverage by simulation",
            "series.scaled_control.estimate_scaled_control",
        ),
        (
            "synthetic_control",
            "effect on one treated unit, by period and average",
            "panel",
            "donors untouched, close fit before; rank of placebos in space",
            "Abadie, Diamond & Hainmueller 2010",
            "timeseries/prop99_scm",
            "series.synthetic_control.estimate_synthetic_control",
        ),
        (
            "synthetic_did",
            "average effect on the treated",
            "panel",
            "donors untouched; placebo or jackknife errors",
            "Arkhangelsky et al. 2021",
            "timeseries/prop99_sdid:sdid",
            "series.synthetic_did.estimate_synthetic_did",
        ),
        (
            "augmented_control",
            "effect on one treated unit outside its donors' hull",
            "panel",
            "donors untouched; conformal interval",
            "Ben-Michael, Feller & Rothstein 2021",
            "equal to synthetic_control as the penalty grows",
            "series.augmented_control.estimate_augmented_control",
        ),
        (
            "difference_in_differences",
            "effect on the treated after the start",
            "panel",
            "parallel trends; CR2 from 10 clusters an arm, wild bootstrap or randomisation below",
            "Card & Krueger 1994; Cameron & Miller 2015",
            "timeseries/card_krueger",
            "series.difference_in_differences.difference_in_differences",
        ),
        (
            "event_study",
            "effects by time since one start",
            "panel",
            "parallel trends; bounds if they differ",
            "Roth 2022; Rambachan & Roth 2023",
            "two-way fixed effects by statsmodels; calibration",
            "series.event_study.estimate_event_study",
        ),
        (
            "group_time_effects",
            "ATT(g, t) and averages for starts at different times",
            "panel",
            "parallel trends, no anticipation; 10 clusters an arm",
            "Callaway & Sant'Anna 2021; Sant'Anna & Zhao 2020",
            "published engine; equal to 2×2 with one cohort; known ATT(g, t)",
            "series.staggered.group_time_effects",
        ),
        (
            "local_linear_robust",
            "jump at the cutoff",
            "units",
            "nobody chooses a side; 50 rows a side within h",
            "Calonico, Cattaneo & Titiunik 2014",
            "timeseries/rdd_senate",
            "units.discontinuity.estimate_discontinuity",
        ),
        (
            "fuzzy_local_linear_robust",
            "effect at the cutoff on those whom the rule moves",
            "units",
            "as local_linear_robust, exclusion, monotonicity; Anderson-Rubin set if F < 10",
            "Hahn, Todd & van der Klaauw 2001; Feir, Lemieux & Marmer 2016",
            "rdrobust 2.1.1; equal to the sharp design under full take-up",
            "units.fuzzy_discontinuity.estimate_fuzzy_discontinuity",
        ),
        (
            "polynomial jump",
            "jump of aggregated cells",
            "units",
            "the polynomial is right",
            "Angrist & Pischke 2015",
            "timeseries/rdd_mlda",
            "units.discontinuity.parametric_discontinuity",
        ),
        (
            "density_jump",
            "continuity of the density at the cutoff",
            "units",
            "large samples; refutes, does not prove",
            "Cattaneo, Jansson & Ma 2020",
            "jackknife; size and power by simulation",
            "units.density.density_jump",
        ),
        (
            "ipw_hajek",
            "ATE or ATT by inverse propensity",
            "units",
            "no unmeasured confounding, overlap, the propensity model",
            "Hirano, Imbens & Ridder 2003",
            "observational/lalonde_matchit:att_ipw,ate_hajek",
            "units.weighting.weighted_effect",
        ),
        (
            "aipw",
            "ATE or ATT, doubly robust",
            "units",
            "no unmeasured confounding, overlap, either model",
            "Robins, Rotnitzky & Zhao 1994; Chernozhukov et al. 2018",
            "observational/lalonde_matchit:aipw_ate,aipw_se",
            "units.doubly_robust.doubly_robust_effect",
        ),
        (
            "nearest_neighbour_1_1",
            "effect on the matched treated",
            "units",
            "no unmeasured confounding; partners inside the caliper",
            "Abadie & Imbens 2006; Abadie & Spiess 2022",
            "observational/lalonde_matchit:n_matched,att_nn_dim",
            "units.matching.match_nearest",
        ),
        (
            "uplift: s, t, x, r, dr",
            "effect at the covariates of each unit",
            "units",
            "no unmeasured confounding; 100 units of an arm in a fold; linear or boosted base",
            "Künzel et al. 2019; Nie & Wager 2021; Kennedy 2023",
            "uplift/hillstrom_A_half_mens",
            "units.learners.fit_uplift",
        ),
        (
            "heterogeneity, out of sample",
            "slope of effects on predicted ones, groups, calibration",
            "units",
            "cross-fitted effects",
            "Chernozhukov et al. 2018; Wager 2024",
            "rejection rate under no heterogeneity",
            "units.heterogeneity_proof.prove_heterogeneity",
        ),
        (
            "qini, auuc",
            "area under named uplift curves",
            "units",
            "scores not fitted to the same units",
            "Radcliffe 2007; Gutierrez & Gérardy 2017",
            "uplift/hillstrom_A_half_womens",
            "units.uplift_curves.uplift_curve",
        ),
        (
            "policy value",
            "mean outcome of treating the top share",
            "units",
            "cross-fitted effects shown to differ",
            "Athey & Wager 2021",
            "coverage of the known value by simulation",
            "units.policy_value.policy_value",
        ),
        (
            "e_value",
            "confounding that would explain the effect, as a risk ratio",
            "numbers",
            "beside the estimate",
            "VanderWeele & Ding 2017",
            "observational/evalues",
            "units.sensitivity.e_value",
        ),
        (
            "rosenbaum",
            "hidden bias Γ that an effect on pairs survives",
            "pairs",
            "matched pairs, signed ranks or 0/1 outcomes",
            "Rosenbaum 2002",
            "observational/rosenbaum_erpcp",
            "units.sensitivity.rosenbaum_signed_rank",
        ),
    ),
    CAUSAL,
)
METHODS = (*FIXED, *ADJUSTED, *SEQUENTIAL, *AROUND, *LEARNING, *WITHOUT_RANDOMISATION)


def markdown_table(methods: Iterable[Method] = METHODS) -> str:
    """The table of methods as Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'|'.join('---' for _ in COLUMNS)}|"]
    for m in methods:
        checked = f"`{m.verified_by}`" if "/" in m.verified_by.split()[0] else m.verified_by
        cells = (m.name, m.estimand, m.input, m.validity, m.reference, checked)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(markdown_table() + "\n")
