"""Folders of finished runs that tests make from a few numbers, without a fit."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from scipy.stats import norm

from pendel.crystal.refined import Refined
from pendel.datasets import example
from pendel.experiment.select import select, thin
from pendel.files.cif import read_crystal
from pendel.files.pets import read_pets
from pendel.folder.posterior_file import Posterior, posterior_tree

SPREAD = 0.02  # Å, of the displacements over the draws
PRIOR = 0.05
DRAWS, SOME = 400, 100  # and those with intensities


def make_run(path: Path, *, seed: int = 0, crystal=None, name: str = "quartz", shift: float = 0.0, **settings) -> Path:
    """Write run.json, summary.json and posterior.nc of a run on a few frames of the example.

    Displacements have mean 0 + shift [Å] and standard deviation SPREAD; intensities follow the first displacement.
    """
    rng = np.random.default_rng(seed)
    crystal = crystal or read_crystal(example().structure)
    measured = thin(select(read_pets(example().data), "nearest"), slice(None, None, 12))
    frames, rows = len(measured.frame_id), np.arange(0, DRAWS, DRAWS // SOME)
    moves = shift + SPREAD * rng.normal(size=(DRAWS, len(crystal.position_basis)))
    fract = np.asarray(crystal.fract) + np.tensordot(moves, np.asarray(crystal.position_basis), axes=1)
    tensor = np.tile(np.asarray(crystal.u_aniso), (DRAWS, 1, 1, 1))
    thickness = 500 + 10 * rng.normal(size=(DRAWS, 1)) + rng.normal(size=(DRAWS, frames))
    posterior = {"displacement": moves, "fract": fract, "U_aniso": tensor, "thickness": thickness}
    posterior |= {"b": np.exp(rng.normal(np.log(0.1), 0.05, DRAWS)), "scale_spread": np.full(DRAWS, 0.1)}
    prior = {"displacement": PRIOR * rng.normal(size=(DRAWS, moves.shape[1])), "b": np.exp(rng.normal(-2, 1, DRAWS))}
    scatter = np.hypot(np.asarray(measured.sigma), 0.1 * np.abs(measured.intensity))
    calculated = np.abs(measured.intensity) * (1 + 0.02 * moves[rows, :1] / SPREAD)
    z = (np.asarray(measured.intensity) - calculated) / scatter
    groups = {
        "posterior": posterior,
        "sample_stats": {"lp": -0.5 * np.sum(moves**2, axis=1)},
        "posterior_predictive": {
            "intensity": calculated + scatter * rng.normal(size=calculated.shape),
            "calculated": calculated,
        },
        "prior": prior,
        "log_prior": {
            "displacement": norm.logpdf(moves, scale=PRIOR).sum(axis=1),
            "b": norm.logpdf(np.log(posterior["b"]), -2, 1) - np.log(posterior["b"]),
        },
        "log_likelihood": {"intensity": -0.5 * z**2 - np.log(scatter)},
    }
    refined = Refined(
        crystal=dataclasses.replace(crystal, fract=fract.mean(axis=0)),
        fract_su=fract.std(axis=0, ddof=1),
        u_aniso_su=np.zeros(tensor.shape[1:]),
        u_equivalent_su=np.zeros(len(crystal.labels)),
        occupancy_su=np.zeros(len(crystal.labels)),
    )
    at_point = [{"calculated_at_point": calculated.mean(axis=0), "z": z.mean(axis=0)}]
    summary = summary_of(model="robust", n_observed=len(z[0]), **settings.pop("summary", {}))
    tree = posterior_tree(
        refined, (measured,), groups, used=None, rows=rows, at_point=at_point, summary=summary, chains=1
    )
    path.mkdir(parents=True)
    Posterior(tree).save(path / "posterior.nc")
    (path / "summary.json").write_text(json.dumps(summary))
    (path / "run.json").write_text(json.dumps(record_of(name, settings)))
    return path


def summary_of(**facts) -> dict:
    """What the report reads of a summary."""
    agreement = {f"{name}{end}": 0.05 for name in ("r_obs_pooled", "wr2_pooled") for end in ("", "_klar")}
    counts = {"n_scored": 500, "n_observed_klar": 400, "n_scored_klar": 500, "n_parameters": 20}
    sampling = {"max_r_hat": None, "min_ess_bulk": None, "n_divergent": None, "stage": "map", "converged": True}
    times = {"elapsed_s": 10.0, "compile_s": 5.0, "selection": "nearest", "log_evidence_laplace": -100.0}
    scalars = {"b": {"mean": 0.1, "sd": 0.005}}
    return {**agreement, **counts, **sampling, **times, "scalars": scalars, "n_draws": DRAWS, **facts}


def record_of(name: str, settings: dict) -> dict:
    """What the report reads of run.json."""
    inputs = {role: {"path": f"/data/{name}.{role}", "sha256": 64 * "0"} for role in ("structure", "data", "model")}
    chosen = {"model": "robust", "thickness": None, "frames": "::12", **settings}
    return {
        **{"inputs": inputs, "settings": chosen, "defaults": {"model": "robust", "thickness": None, "frames": ":"}},
        **{"code_sha256": 64 * "1", "versions": {"pendel": "0.1.0"}, "seed": 0, "layout": 2},
        **{"derived": {"notes": []}, "stages": {}, "keys": {}},
    }
