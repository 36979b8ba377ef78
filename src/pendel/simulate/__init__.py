"""The dynamical simulator, in the order of the calculation.

scattering (U_g), geometry, beams, matrix, chebyshev (exit waves), plan, forward (intensities).
"""

from pendel.simulate.forward import kinematic_intensities, simulate_intensities, thickness_table
from pendel.simulate.plan import Plan, make_plan

__all__ = ["Plan", "kinematic_intensities", "make_plan", "simulate_intensities", "thickness_table"]
