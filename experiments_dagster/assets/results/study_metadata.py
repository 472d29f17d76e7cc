"""What Dagster shows of a study, whatever its design."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from experiments_dagster.interventions.study import Study, StudyEstimate
from experiments_dagster.reporting.blocks import WIDE
from experiments_dagster.reporting.charts import data_uri
from experiments_dagster.reporting.study_sections import called


def study_metadata(study: Study, warnings: Sequence[str]) -> dict[str, Any]:
    """Claim, estimates, pictures and warnings, in the word that the claim allows."""
    claim = study.claim
    return {
        "claim": claim.status,
        "because": called("; ".join(claim.clauses), claim) or "no refutation failed",
        "design": study.method,
        "estimand": study.estimand,
        **{f"{claim.term}: {called(item.name, claim)}": _words(item) for item in study.estimates},
        **{
            picture.name: dg.MetadataValue.md(f"![{picture.name}]({data_uri(picture.draw(WIDE))})")
            for picture in study.pictures
        },
        "warnings": called("; ".join(warnings), claim) or "none",
    }


def _words(item: StudyEstimate) -> str:
    """An estimate with its interval."""
    low = "-inf" if item.ci_low is None else f"{item.ci_low:.5g}"
    high = "inf" if item.ci_high is None else f"{item.ci_high:.5g}"
    has_interval = item.ci_low is not None or item.ci_high is not None
    return f"{item.estimate:.5g}" + (f" [{low}, {high}]" if has_interval else "")
