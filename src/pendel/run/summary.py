"""The numbers of summary.json: agreement, sampling, thickness, and every unknown that is one number."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pendel.base import Array, suffix
from pendel.folder.posterior_file import by_chain
from pendel.judge.agreement import Agreement
from pendel.run.evaluate import own_agreement
from pendel.run.inputs import Problem
from pendel.run.results import StageResult

SCORES = ("r_obs_pooled", "wr2_pooled", "r_obs_mean", "wr2_mean")  # of `Agreement`
COUNTS = ("n_frames", "n_scored", "n_observed")

type Summary = dict[str, Any]


def agreement_numbers(problem: Problem, calculated: Sequence[Array], klar: Agreement | None, missing: int) -> Summary:
    """R factors and what they rest on. klar: those of the rule klar; missing: frames that only that rule has."""
    own = own_agreement(problem, calculated, used=True)
    held_out = own_agreement(problem, calculated, used=False) if problem.used else None
    of_klar = {name: getattr(klar, name) if klar else float("nan") for name in SCORES}
    of_klar |= {name: getattr(klar, name) if klar else 0 for name in COUNTS}
    return {
        **{name: getattr(own, name) for name in (*SCORES, *COUNTS)},
        **{f"{name}_klar": value for name, value in of_klar.items()},
        "r_obs_heldout": held_out.r_obs_pooled if held_out else None,
        "wr2_heldout": held_out.wr2_pooled if held_out else None,
        "n_heldout": held_out.n_scored if held_out else 0,
        "n_observed_heldout": held_out.n_observed if held_out else 0,
        "n_frames_only_klar": missing,
    }


def sampling_numbers(result: StageResult) -> Summary:
    """Convergence of the chains over every number that was sampled; nothing where the draws are independent."""
    if result.chains == 1:
        return {"max_r_hat": None, "min_ess_bulk": None, "n_divergent": None}
    from pendel.judge.chains import chain_quality  # ArviZ: not before it is needed

    quality = chain_quality({name: by_chain(x, result.chains) for name, x in result.draws.items()})
    divergent = int(np.sum(result.statistics["diverging"])) if "diverging" in result.statistics else None
    return {**quality, "n_divergent": divergent}


def thickness_numbers(derived: Mapping[str, Array], datasets: int) -> Summary:
    """Mean over frames of the mean thickness [Å], its standard uncertainty, and its range over the frames."""
    curves = [
        np.asarray(derived[f"thickness{suffix(n)}"]) for n in range(datasets) if f"thickness{suffix(n)}" in derived
    ]
    if not curves:
        return {"thickness_mean_angstrom": None}
    profile = np.concatenate(curves, axis=1)
    return {
        "thickness_mean_angstrom": float(profile.mean()),
        "thickness_su_angstrom": float(profile.mean(axis=1).std(ddof=1)),
        "thickness_min_angstrom": float(profile.mean(axis=0).min()),
        "thickness_max_angstrom": float(profile.mean(axis=0).max()),
    }


def scalar_numbers(draws: Mapping[str, Array]) -> Summary:
    """Mean and standard deviation of every latent site that is one number."""
    values = {name: np.asarray(value) for name, value in draws.items() if np.ndim(value) == 1}
    return {"scalars": {name: {"mean": float(x.mean()), "sd": float(x.std(ddof=1))} for name, x in values.items()}}


def plain(value: Any) -> Any:
    """Values JSON knows: NaN becomes null, NumPy scalars become numbers."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
