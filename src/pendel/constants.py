"""Physical constants, the beam convention and the one error type for wrong input.

Convention: plane waves are exp(+2 pi i k.r); the beam travels along -z, so the incident wave vector is
K = (0, 0, -1/wavelength); reciprocal vectors are in Å⁻¹ without the factor 2 pi; rotations are active and act on
columns.
"""

import numpy as np

from pendel.base import Array, InputError

# CODATA 2018 (exact in the SI of 2019, except the electron mass).
PLANCK = 6.62607015e-34  # J s
ELEMENTARY_CHARGE = 1.602176634e-19  # C
SPEED_OF_LIGHT = 299792458.0  # m s^-1
ELECTRON_MASS = 9.1093837015e-31  # kg
VACUUM_PERMITTIVITY = 8.8541878128e-12  # F m^-1
VOLT_PER_ELECTRON_PER_ANGSTROM = (
    ELEMENTARY_CHARGE / (4 * np.pi * VACUUM_PERMITTIVITY) * 1e10
)  # potential e / 4 pi eps0 r
ELECTRON_REST_ENERGY_EV = ELECTRON_MASS * SPEED_OF_LIGHT**2 / ELEMENTARY_CHARGE  # eV


def wavelength(energy_ev: float) -> float:
    """Relativistic electron wavelength [Å] of a kinetic energy [eV].

    lambda = h / sqrt(2 m e E (1 + E / 2 m c^2)); e.g. 0.0250793 Å at 200 keV.
    """
    if not energy_ev > 0:
        raise InputError(
            found=f"the energy is {energy_ev} eV",
            expected="a positive energy",
            do="give --energy-ev in eV, e.g. 200000",
        )
    joule = energy_ev * ELEMENTARY_CHARGE
    momentum = np.sqrt(2 * ELECTRON_MASS * joule * (1 + energy_ev / (2 * ELECTRON_REST_ENERGY_EV)))
    return float(PLANCK / momentum * 1e10)


def energy_ev(wavelength_angstrom: float) -> float:
    """Kinetic energy [eV] of an electron of the given wavelength [Å]; the inverse of `wavelength`."""
    pc_ev = PLANCK * SPEED_OF_LIGHT / (wavelength_angstrom * 1e-10) / ELEMENTARY_CHARGE
    return float(np.hypot(pc_ev, ELECTRON_REST_ENERGY_EV) - ELECTRON_REST_ENERGY_EV)


def relativistic_gamma(wavelength_angstrom: Array | float) -> Array | float:
    """Lorentz factor of an electron of the given wavelength [Å], sqrt(1 + (h / (lambda m c))^2); may be traced."""
    compton = PLANCK / (ELECTRON_MASS * SPEED_OF_LIGHT) * 1e10
    return (1.0 + (compton / wavelength_angstrom) ** 2) ** 0.5
