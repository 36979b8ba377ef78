"""Ranks of measurements among observations that the model draws anew."""

import numpy as np

from pendel.folder.reader import Measured


def probability_ranks(data: Measured) -> np.ndarray:
    """PIT of every measurement: how many of the replicated observations lie below it."""
    draws = len(data.replicated)
    below = np.sum(data.replicated < data.intensity, axis=0)
    jitter = np.random.default_rng(0).uniform(
        size=len(data.intensity)
    )  # ranks are whole numbers, probabilities are not
    return (below + jitter) / (draws + 1)
