"""A refinement from settings to results."""
