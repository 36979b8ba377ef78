"""The dynamical simulator, in the order of the calculation.

thermal (f'), scattering (U_g and U'_g), geometry, beams, mosaic, matrix, chebyshev (exit waves), plan,
coupling (V_g), planning (how a plan is made), illumination, forward (intensities).
"""

from pendel.simulate.forward import kinematic_intensities, simulate_intensities, thickness_table
from pendel.simulate.illumination import Illumination
from pendel.simulate.plan import Plan, PlanSettings
from pendel.simulate.planning import make_plan

__all__ = [
    "Illumination",
    "Plan",
    "PlanSettings",
    "kinematic_intensities",
    "make_plan",
    "simulate_intensities",
    "thickness_table",
]
