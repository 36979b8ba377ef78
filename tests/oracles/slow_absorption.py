"""Absorptive form factors of thermal diffuse scattering by a quadrature of its own, from the formula of the papers.

f'(s, B) = (2 lambda_C / beta) Int d²s' f(|s/2 + s'|) f(|s/2 - s'|) [1 - exp(-2 B (s'² - s²/4))]

Elliptic coordinates with the foci at s' = +-s/2, where the form factors are steep: with a = s/2,

    |s/2 +- s'| = a (cosh m +- cos n),   d²s' = a² (sinh² m + sin² n) dm dn,   s'² - a² = a² (sinh² m - sin² n).

Source: Bird & King, Acta Cryst. A46, 202 (1990), eq. 4.
"""

import numpy as np

COMPTON = 0.0242631  # lambda_C = h / (m0 c) [Å]
FARTHEST = 3e4  # Å⁻¹
POINTS = 240


def beta(wavelength):
    """v / c of electrons of a wavelength [Å]."""
    return 1 / np.sqrt(1 + (wavelength / COMPTON) ** 2)


def lobato(a, b, s):
    """f(s) [Å] of Lobato & Van Dyck (2014), whose formula has the argument g = 2 s."""
    g_squared = (2 * np.asarray(s)[..., None]) ** 2
    return np.sum(a * (2 + b * g_squared) / (1 + b * g_squared) ** 2, axis=-1)


def absorptive_form_factor(f, s, b, wavelength):
    """f'(s, B) [Å] at one s [Å⁻¹] and one B [Å²] for a function f(s)."""
    prefactor = 2 * COMPTON / beta(wavelength)
    point, weight = np.polynomial.legendre.leggauss(POINTS)
    if s == 0:
        log_radius = np.interp(point, [-1, 1], [np.log(1e-6), np.log(FARTHEST)])
        radius, step = np.exp(log_radius), 0.5 * weight * np.log(FARTHEST / 1e-6)
        return prefactor * np.sum(2 * np.pi * step * radius**2 * f(radius) ** 2 * -np.expm1(-2 * b * radius**2))
    a, farthest = s / 2, np.arccosh(2 * FARTHEST / s)
    m, step = 0.5 * (point + 1) * farthest, 0.5 * weight * farthest
    n = 2 * np.pi * (np.arange(POINTS) + 0.5) / POINTS
    m, n = m[:, None], n[None]
    difference = a**2 * (np.sinh(m) ** 2 - np.sin(n) ** 2)
    area = a**2 * (np.sinh(m) ** 2 + np.sin(n) ** 2)
    product = f(a * (np.cosh(m) + np.cos(n))) * f(a * (np.cosh(m) - np.cos(n)))
    return prefactor * np.sum(step[:, None] * product * area * -np.expm1(-2 * b * difference)) * 2 * np.pi / POINTS


def diffuse_cross_section(f, b, wavelength):
    """Total thermal diffuse scattering of one atom [Å²], 4 gamma² lambda² Int d²s f² (1 - exp(-2 B s²))."""
    gamma = np.sqrt(1 + (COMPTON / wavelength) ** 2)
    log_s = np.linspace(np.log(1e-6), np.log(FARTHEST), 20001)
    s = np.exp(log_s)
    integral = np.trapezoid(2 * np.pi * s**2 * f(s) ** 2 * -np.expm1(-2 * b * s**2), log_s)
    return 4 * gamma**2 * wavelength**2 * integral
