"""Exit waves of dense structure matrices, one tilt at a time: Bloch waves, or SciPy's matrix exponential."""

import numpy as np
from scipy.linalg import expm


def structure_matrices(interaction, diagonal, flux):
    """A = diag(D) + M V M [segments tilts beams beams] of V [segments beams beams], D and M [segments beams tilts]."""
    v, d, m = np.asarray(interaction, complex), np.moveaxis(np.asarray(diagonal), 1, 2), np.moveaxis(flux, 1, 2)
    return m[..., :, None] * v[:, None] * m[..., None, :] + np.eye(v.shape[-1]) * d[..., None, :]


def propagate_eigen(interaction, diagonal, flux, thickness):
    """psi(t) = C exp(i L t) C^H e_0 [segments nodes beams tilts] with the eigenvectors C of a Hermitian A."""
    value, vector = np.linalg.eigh(structure_matrices(interaction, diagonal, flux))
    phase = np.exp(1j * value[:, :, None] * np.asarray(thickness)[:, None, :, None])
    return np.einsum("skgb,skqb,skb->sqgk", vector, phase, vector[:, :, 0].conj())


def propagate_expm(interaction, diagonal, flux, thickness):
    """psi(t) = exp(i A t) e_0 [segments nodes beams tilts]; A need not be Hermitian."""
    matrices = structure_matrices(interaction, diagonal, flux)
    waves = [
        [[expm(1j * a * t)[:, 0] for a in tilts] for t in nodes]
        for tilts, nodes in zip(matrices, np.asarray(thickness), strict=True)
    ]
    return np.moveaxis(np.array(waves), 2, 3)
