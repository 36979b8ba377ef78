"""Checks before and beside a refinement: inputs, convergence of the beams, synthetic experiments."""
