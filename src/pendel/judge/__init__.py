"""How good a fit is: agreement, predictive density, verdicts."""
