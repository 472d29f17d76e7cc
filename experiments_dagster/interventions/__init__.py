"""Interventions without randomisation: from unit_days to an estimated counterfactual."""
