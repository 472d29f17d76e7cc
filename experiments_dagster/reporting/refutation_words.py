"""What each refutation asks, for people who do not know its name."""

from __future__ import annotations

QUESTIONS = {
    "arm_sizes": ("Size of the groups", "does every fit see enough units of both groups?"),
    "balance": ("Balance", "do treated and control agree in what was known before?"),
    "bandwidths": ("Other bandwidths", "does the jump hang on how close to the cutoff one looks?"),
    "bias_alarm": ("Bias alarm", "does the method lean one way where nothing happened?"),
    "calibrated_prior": ("Calibrated prior", "is it found with intervals that hold?"),
    "calibration": ("Calibration", "do predicted responses agree with those observed?"),
    "cluster_count": ("Number of clusters", "are there enough for the interval to hold?"),
    "covariate_breaks": ("Breaks of covariates", "did what predicts the outcome change as well?"),
    "covariate_jumps": ("Jumps of covariates", "does what was fixed before jump at the cutoff?"),
    "density": ("Density at the cutoff", "did units choose their side of the cutoff?"),
    "donut": ("Without the nearest units", "does the jump hang on units right at the cutoff?"),
    "drop_last_pre": ("Without the last steps before", "does it hang on them?"),
    "e_value": ("E-value", "how strong must an unseen cause be to explain it away?"),
    "effective_rows": ("Units near the cutoff", "are there enough on both sides?"),
    "estimators_agree": ("Other estimators", "do they find the same?"),
    "first_stage": ("Take-up at the cutoff", "does the rule move who is treated?"),
    "heterogeneity": ("Heterogeneity", "do units respond differently, out of sample?"),
    "hidden_bias": ("Hidden bias", "how unequal must odds of treatment be to explain it away?"),
    "leave_one_covariate_out": ("Without each covariate", "does it hang on one of them?"),
    "leave_out_donor": ("Without each donor", "does it hang on one of them?"),
    "leave_out_last_pre_steps": ("Without the last steps before", "does it hang on them?"),
    "leave_out_predictor": ("Without each predictor", "does it hang on one of them?"),
    "mass_points": ("Mass points", "does the running variable take enough values?"),
    "other_splits": ("Other splits", "does it hang on how units were split for the fits?"),
    "overlap": ("Overlap", "are there comparable units in both groups?"),
    "placebo_cutoffs": ("Placebo cutoffs", "is there a jump where no rule starts?"),
    "placebo_in_space": ("Placebo in space", "do untreated units show as much?"),
    "placebo_in_time": ("Placebo in time", "is as much found at dates where nothing happened?"),
    "placebo_lean": ("Lean of the placebos", "does the method lean one way without treatment?"),
    "placebo_outcome": ("Placebo outcome", "does what cannot respond seem to respond?"),
    "placebo_period": ("Placebo start", "is there a difference before anything happened?"),
    "polynomial_order": ("Other polynomials", "does the jump hang on the order?"),
    "post_length": ("Length of the forecast", "does it rest on enough history?"),
    "post_period_leak": ("Leak", "does the counterfactual read what happened after?"),
    "estimators_agree_covariates": (
        "With covariates",
        "does it hang on who is compared with whom?",
    ),
    "estimators_agree_incomplete_units": (
        "With incomplete units",
        "does it hang on units seen in all periods?",
    ),
    "pre_fit": ("Fit before", "does the counterfactual follow the series before?"),
    "pre_trend": ("Trend before", "did treated and control move alike before?"),
    "relative_magnitude": (
        "Trends as bad as before",
        "does it survive a trend after as large as the worst one before?",
    ),
    "sample_ratio": ("Sample ratio", "are the arms as large as the assignment says?"),
    "treated_donors": ("Treated donors", "was one of the donors treated itself?"),
    "window": ("Other windows", "does the jump hang on how far from the cutoff one reads?"),
    "weights": ("Weights", "does it rest on a few units?"),
}
PREFIXES = {
    "leave_out_": ("Without each", "does it hang on one of them?"),
    "placebo_outcome_": ("Placebo outcome", "does what cannot respond seem to respond?"),
    "placebo_period_": ("Placebo start", "is there a difference before anything happened?"),
}


def refutation_words(name: str) -> tuple[str, str]:
    """The name in words and what is asked; an unknown name stands for itself.

    Examples:
        >>> refutation_words("placebo_outcome_visits")
        ('Placebo outcome: visits', 'does what cannot respond seem to respond?')
        >>> refutation_words("weights")[0], refutation_words("own_check")
        ('Weights', ('Own check', ''))
    """
    if name in QUESTIONS:
        return QUESTIONS[name]
    for prefix, (title, question) in PREFIXES.items():
        if name.startswith(prefix):
            rest = name.removeprefix(prefix).replace("_", " ")
            return f"{title}: {rest}", question
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:], ""
