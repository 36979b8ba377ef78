"""Are the residuals of equivalent reflections alike? Then their errors are common, and n of them are not n errors."""

import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.experiment.equivalents import equivalent_codes, laue_group
from pendel.folder.reader import RunFiles

STRONG = 8.0  # sigma, above which the model error outweighs the counting error
LARGEST = 4.0  # residual that counts, so that no outlier decides


def correlation_of_equivalents(run: RunFiles) -> tuple[float, int]:
    """Correlation of the residuals of strong equivalent reflections of the fit, and the pairs it was found from."""
    rows = [data.used & (data.intensity > STRONG * data.sigma) for data in run.data]
    if not any(chosen.any() for chosen in rows):
        return 0.0, 0
    texts = [text for data, chosen in zip(run.data, rows, strict=True) for text in np.array(data.hkl)[chosen]]
    hkl = np.array([text.split() for text in texts], dtype=int).reshape(-1, 3)
    z = np.concatenate([data.z[chosen] for data, chosen in zip(run.data, rows, strict=True)])
    return _correlation(np.clip(z - np.median(z), -LARGEST, LARGEST), equivalent_codes(hkl, laue_group(run.crystal)))


def _correlation(z: Float[Array, " n"], code: Int[Array, " n"]) -> tuple[float, int]:
    """Mean product of two members of one group over the mean square of all; pairs of members."""
    _, group, count = np.unique(code, return_inverse=True, return_counts=True)
    pairs = int(np.sum(count * (count - 1)) // 2)
    if not pairs:
        return 0.0, 0
    sums, squares = np.bincount(group, z), np.bincount(group, z**2)
    return float(np.sum(sums**2 - squares) / 2 / pairs / np.mean(z**2)), pairs
