"""The dynamical simulator, in the order of the calculation.

thermal (f'), scattering (U_g and U'_g), geometry, beams, mosaic, matrix, chebyshev (exit waves), plan, illumination,
forward (intensities).
"""

from pendel.simulate.forward import kinematic_intensities, simulate_intensities, thickness_table
from pendel.simulate.illumination import Illumination
from pendel.simulate.plan import Plan, PlanSettings, make_plan

__all__ = [
    "Illumination",
    "Plan",
    "PlanSettings",
    "kinematic_intensities",
    "make_plan",
    "simulate_intensities",
    "thickness_table",
]
