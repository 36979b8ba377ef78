"""Pass, warn or fail: what a reader should know before believing a refinement, with the number and what to do."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy.stats import kstest

from pendel.base import NO_HYDROGEN, OVERFULL, Array, kind_of, suffix
from pendel.crystal.structure import Crystal, is_centrosymmetric, u_equivalent
from pendel.folder.reader import RunFiles
from pendel.judge.chains import fraction_of_missing_information
from pendel.judge.equivalents import correlation_of_equivalents
from pendel.judge.frames import flagged_frames
from pendel.judge.loo import left_out_ranks
from pendel.judge.parameters import BAND

GOOD_R, POOR_R = 0.08, 0.15
SURE = 0.95  # probability of one thickness basin
GAP = 1.5  # held-out R over R in the fit
SEPARATED = 3.0  # nats of evidence between the best thickness basin and the next, as 0.95 against 0.05
DUSTBIN = 0.25  # share of next to no thickness
AGREEING = 3.0  # nats between the bounds of guides from different seeds
FEWEST_K_DRAWS = 40  # of runs whose file does not say how many
FEW_HELD_OUT = 20  # observed reflections
FEW_A_PARAMETER = 2  # observed reflections
FEW_REPEATS = 0.02  # of the rows
ALIKE, FEWEST_PAIRS = 0.1, 50  # correlation of residuals of equivalents, and pairs that say something about it
RESOLVED = 1.0  # thickness fringes from one tilt to the next
NEAR = 0.9  # of the largest thickness that a plan allows
SMALL_U, LARGE_U = 0.001, 0.1  # Å²
PASS, WARN, FAIL = "pass", "warn", "fail"
END_OF_GIST = re.compile(r" \(|, |; |: | and one run ")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """level: pass, warn or fail; text: what was found, with its number; advice: what to do, empty when nothing.

    brief: the text in few words, where `in_few_words` cannot take its beginning.
    """

    level: str
    text: str
    advice: str = ""
    brief: str = ""


def judged(good: bool | np.bool, text: str, advice: str, bad: str = WARN, brief: str = "") -> Verdict:
    """Pass, or else a warning, or failure, with the advice."""
    return Verdict(PASS, text) if good else Verdict(bad, text, advice, brief)


def in_few_words(verdict: Verdict) -> str:
    """The text up to its first limit, number behind a colon, or further clause.

    >>> in_few_words(Verdict(WARN, "largest R-hat 1.034 (b; good below 1.01)", "look at traces"))
    'largest R-hat 1.034'
    """
    return verdict.brief or END_OF_GIST.split(verdict.text, maxsplit=1)[0]


def verdicts(run: RunFiles) -> list[Verdict]:
    """All verdicts on a run, the worst first."""
    found = [*_agreement(run), *_convergence(run), *_errors(run), *_sampling(run), *_frames(run), *_structure(run)]
    return sorted(found, key=lambda verdict: (FAIL, WARN, PASS).index(verdict.level))


def _agreement(run: RunFiles) -> Iterator[Verdict]:
    r_obs, count = run.summary["r_obs_pooled"], run.summary["n_observed"]
    level = PASS if r_obs < GOOD_R else WARN if r_obs < POOR_R else FAIL
    advice = "" if level == PASS else "look at the frames and residuals below; check cell, hand and start structure"
    yield Verdict(level, f"R_obs {100 * r_obs:.2f} % over {count} observed reflections", advice)
    parameters = run.summary.get("n_parameters")
    if parameters and count < FEW_A_PARAMETER * parameters:
        text = f"{count} observed reflections for {parameters} parameters (good from {FEW_A_PARAMETER} for each)"
        yield Verdict(WARN, text, "take more frames; with so few reflections a low R factor says little")
    yield from _repeats(run)
    held_out, left_out = run.summary.get("r_obs_heldout"), run.summary.get("n_observed_heldout") or 0
    if not run.summary.get("n_heldout"):
        yield Verdict(WARN, "nothing was held out, so over-fitting was not tested", "repeat with --holdout 0.1")
    elif held_out is None or left_out < FEW_HELD_OUT:
        text = f"{left_out} observed reflections held out, too few to test over-fitting (good from {FEW_HELD_OUT})"
        yield Verdict(WARN, text, "repeat with a larger --holdout, or more frames")
    else:
        ratio = held_out / r_obs
        text = f"R_obs {100 * held_out:.2f} % on held-out reflections, {ratio:.2f} times that of the fit"
        yield judged(
            ratio < GAP,
            text,
            "a frame has many parameters for its reflections: take more frames, or --thickness single",
        )


def _repeats(run: RunFiles) -> Iterator[Verdict]:
    """Rows that stand for a measurement which another row stands for, too, are counted twice by the likelihood."""
    rows = [
        (number, *row)
        for number, data in enumerate(run.data)
        for row in zip(data.hkl, data.intensity.tolist(), data.sigma.tolist(), strict=True)
    ]
    repeated = len(rows) - len(set(rows))
    if repeated > FEW_REPEATS * len(rows):
        text = f"{repeated} of {len(rows)} scored rows repeat a measurement, so uncertainties come out too small"
        yield Verdict(WARN, text, "take uncertainties from a run with --select nearest, which counts each once")


def _convergence(run: RunFiles) -> Iterator[Verdict]:
    summary, stage = run.summary, run.summary["stage"]
    yield from _maximum(summary)
    if stage == "map":
        yield Verdict(
            WARN,
            "uncertainties are those of the Laplace approximation, with the spreads of the hierarchies fixed",
            "repeat with --infer svi or nuts",
        )
    if stage == "svi":
        yield from _evidence_bound(summary)
        k, draws = summary["guide_pareto_k"], summary.get("guide_pareto_k_draws", FEWEST_K_DRAWS)
        good = largest_good_k(draws)
        text = f"Pareto k of the guide {k:.2f} from {draws} draws (good below {good:.2f})"
        advice = "the guide misses part of the posterior: check its uncertainties with --infer nuts"
        yield judged(k < good, text, advice)
    if stage == "smc":
        yield from _basins(summary)
    if summary["min_ess_bulk"] is not None:
        yield from _chains(run)


def _maximum(summary: Mapping[str, Any]) -> Iterator[Verdict]:
    if message := summary.get("map_message"):
        reached = "reached" if summary["converged"] else "not reached"
        advice = "start from another structure, or change --frames, --tilts or the beams"
        yield judged(bool(summary["converged"]), f"the maximum was {reached}: {message}", advice, FAIL)


def largest_good_k(draws: int) -> float:
    """The Pareto k up to which importance weights of so many draws would mend a guide.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry, J. Mach. Learn. Res. 25, 72 (2024).
    """
    return min(1 - 1 / np.log10(max(draws, 11)), 0.7)


def _basins(summary: dict[str, Any]) -> Iterator[Verdict]:
    probability, thickness = np.array(summary["basin_probability"]), summary["basin_thickness"]
    parts = [f"{p:.2f}" + (f" (T {t:.0f} Å)" if t else "") for p, t in zip(probability, thickness, strict=True)]
    if summary["basins_tried"] == 1:
        yield Verdict(WARN, "one thickness basin only was tried", "start from other structures, or change --frames")
    text = f"probability of the maxima that were found: {', '.join(parts)}"
    advice = "several thicknesses explain the data: quote the structure over all of them"
    yield judged(float(np.max(probability)) > SURE, text, advice)
    acceptance = summary["smc_acceptance"]
    text = f"moves of the particles accepted: {acceptance:.2f} (good above 0.4)"
    yield judged(acceptance > 0.4, text, "check with --infer nuts")


def _evidence_bound(summary: dict[str, Any]) -> Iterator[Verdict]:
    """No verdict for runs whose file has no gain, or whose steps failed."""
    gain, error = summary.get("elbo_gain"), summary.get("elbo_gain_se")
    if gain is not None and error is not None:
        limit, uncertain = summary["elbo_settled_below"], summary.get("elbo_uncertain_above")
        gained = f"{gain:.1f} +/- {error:.1f} nats gained in the last cycle"
        text = f"evidence bound: {gained} (good below {limit:g} or two standard errors)"
        if uncertain is not None and error >= uncertain:
            text = f"evidence bound: {gained} (good with a standard error below {uncertain:g})"
        yield judged(summary["elbo_settled"], text, "not converged: check with --infer nuts")
    others = summary.get("elbo_other_guides")
    if others:
        behind = summary["elbo"] - min(others)
        found = f"evidence bounds of {1 + len(others)} guides from different seeds within {behind:.1f} nats"
        text = f"{found} (good below {AGREEING:g})"
        yield judged(behind < AGREEING, text, "the fit depends on the seed: check with --infer nuts")


def _chains(run: RunFiles) -> Iterator[Verdict]:
    summary = run.summary
    ess = summary["min_ess_bulk"]
    worst = float("inf") if summary["max_r_hat"] is None else summary["max_r_hat"]  # JSON has no infinity
    longer = "look at traces and ranks; repeat with another --seed, or with more draws (pendel.sample_nuts in Python)"
    text = f"largest R-hat {worst:.3f} ({summary['max_r_hat_of']}; good below 1.01)"
    yield judged(worst < 1.01, text, longer, FAIL)
    text = f"smallest bulk ESS {ess:.0f} ({summary['min_ess_bulk_of']}; good from 400)"
    yield judged(ess >= 400, text, longer, WARN if ess >= 100 else FAIL)
    if summary.get("min_ess_tail") is not None:
        tail = summary["min_ess_tail"]
        text = f"smallest tail ESS {tail:.0f} ({summary['min_ess_tail_of']}; good from 400, for 95 % intervals)"
        yield judged(tail >= 400, text, longer)
    divergent = summary["n_divergent"]
    if divergent is not None:
        text = f"{divergent} divergent transitions of {summary['n_draws']}"
        yield judged(
            divergent == 0, text, "standard deviations of the frame spreads may be wrong: run more draws", FAIL
        )
    if summary["stage"] == "nuts":  # energies of other samplers are something else
        share = fraction_of_missing_information(run.tree)
        yield judged(share > 0.3, f"E-BFMI {share:.2f} (good above 0.3)", longer)


def _errors(run: RunFiles) -> Iterator[Verdict]:
    scalars = run.summary["scalars"]
    if "b" in scalars:
        b, common = (scalars[name]["mean"] if name in scalars else 0.0 for name in ("b", "reflection_spread"))
        of_both = f", {100 * common:.1f} % common to equivalents" if common else ""
        text = f"inferred model error {100 * np.hypot(b, common):.1f} % of I_calc (b = {100 * b:.1f} %{of_both})"
        left_out = [name for name in ("absorption", "mosaicity") if not _has(run, name)]
        advice = "the model misses strong reflections: twinning, a wrong cell, a wrong structure?"
        if left_out:
            advice += f" {' and '.join(left_out)} left out: try --{' on --'.join(left_out)} on (model robust)"
        yield judged(bool(np.hypot(b, common) < 0.1), text, advice)
    yield from _equivalents(run)
    found = kstest(np.concatenate(left_out_ranks(run.tree)), "uniform")
    text = (
        "predicted distribution of I_obs: leave-one-out ranks depart from uniform by "
        f"{found.statistic:.3f} (p = {found.pvalue:.2g})"
    )
    brief = "predicted distribution of I_obs is not that of the data"
    yield judged(bool(found.pvalue > 0.01), text, "the error model is not this data's: see the PIT figure", brief=brief)


def _equivalents(run: RunFiles) -> Iterator[Verdict]:
    """Errors common to equivalents, where the model has none of its own for them."""
    if "reflection_spread" in run.tree["posterior"]:
        return
    correlation, pairs = correlation_of_equivalents(run)
    if pairs < FEWEST_PAIRS:
        return
    text = f"residuals of equivalent reflections are correlated by {correlation:.2f} (good below {ALIKE})"
    advice = (
        "n measurements of a reflection are not n errors, so uncertainties are too small: the model robust has errors "
        "common to equivalents (--reflection-error on)"
    )
    yield judged(correlation < ALIKE, text, advice)


def _sampling(run: RunFiles) -> Iterator[Verdict]:
    step = run.summary.get("fringes_per_tilt")
    if step is None:
        return
    text = f"{step:.2f} thickness fringes from one tilt to the next (good up to {RESOLVED:g})"
    advice = (
        "intensities depend on where the tilts fall, and frames have spurious maxima along their tilt: "
        f"repeat with --tilts {run.summary['tilts_resolving']}"
    )
    yield judged(step <= RESOLVED, text, advice)


def _frames(run: RunFiles) -> Iterator[Verdict]:
    for data in run.data:
        flagged = flagged_frames(data)
        share = len(flagged) / len(data.frame_id)
        named = ", ".join(str(data.frame_id[index]) for index in list(flagged)[:8])
        text = f"{data.name}: {len(flagged)} of {len(data.frame_id)} frames stand out" + (
            f" ({named})" if flagged else ""
        )
        advice = (
            "see the table of frames: a bad orientation, another grain, shadowing? --leave-out 17 drops frame 17; "
            "that it fits badly is no reason by itself"
        )
        brief = f"{len(flagged)} of {len(data.frame_id)} frames stand out"
        yield judged(share <= 0.05, text, advice, brief=brief)
        yield from _thin(data.name, data.of_frames, _has(run, "mosaicity"))
    posterior, plans = run.tree["posterior"], run.record.get("derived", {})
    for number, data in enumerate(run.data):
        name, limit = f"log_thickness{suffix(number)}", plans.get(f"plan{suffix(number)}", {}).get("thickness_max")
        if name in posterior and limit is not None:
            yield from _stopped(data.name, posterior[name].values, limit)
    yield from _basins_of_start(run.record)


def _stopped(name: str, log_thickness: Array, limit: float) -> Iterator[Verdict]:
    """Frames as thick as the expansion of the propagator reaches [Å], beyond which no intensity can be calculated.

    log_thickness: draws on the leading axes.
    """
    thickest = float(np.exp(np.max(np.percentile(np.asarray(log_thickness), BAND[1], axis=(0, 1)))))
    if thickest > NEAR * limit:
        text = f"{name}: a frame may be {thickest:.0f} Å thick, and the fit could not go beyond {limit:.0f} Å"
        yield Verdict(WARN, text, "refine again from refined.cif, whose scan begins with a better structure")


def _basins_of_start(record: dict[str, Any]) -> Iterator[Verdict]:
    """Where the fit began in several thickness basins: by how much the one that was kept leads."""
    fitted = [basin for basin in record.get("basins_fitted", []) if basin["log_evidence"] is not None]
    if len(fitted) > 1:
        best, second, *_ = sorted(fitted, key=lambda basin: -basin["log_evidence"])
        lead = best["log_evidence"] - second["log_evidence"]
        places = ", ".join(f"{basin['angstrom']:.0f}" for basin in fitted)
        text = (
            f"the scan could not separate thickness basins at {places} Å; all were fitted, and the one at "
            f"{best['angstrom']:.0f} Å is ahead by {lead:.1f} nats (good above {SEPARATED:g})"
        )
        yield judged(lead > SEPARATED, text, "several thicknesses explain the data: take --infer smc")


def _thin(name: str, of_frames: dict[str, Any], is_mosaic: bool) -> Iterator[Verdict]:
    """A thickness distribution that explains what the model lacks: much of its weight at next to no thickness."""
    if "thin_share" not in of_frames:
        return
    share = float(np.median(of_frames["thin_share"]))
    text = f"{name}: {100 * share:.0f} % of the lit area is thinner than 50 Å or a tenth of its thickest part"
    if "thickness_by_volume" in of_frames:
        text += f"; mean thickness by volume {float(np.median(of_frames['thickness_by_volume'])):.0f} Å"
    advice = (
        "the thickness may stand for what the model lacks: background, absorption, mosaicity, a wrong thickness; "
        f"compare with {'' if is_mosaic else '--mosaicity on (model robust), '}--thickness lens or single"
    )
    brief = f"{100 * share:.0f} % of the lit area is almost without thickness"
    yield judged(share <= DUSTBIN, f"{text} (good up to {100 * DUSTBIN:.0f} %)", advice, brief=brief)


def _has(run: RunFiles, parameter: str) -> bool:
    """Whether a run refined a parameter, for any of its data sets."""
    return any(name.startswith(parameter) for name in run.tree["posterior"].data_vars)


def _structure(run: RunFiles) -> Iterator[Verdict]:
    spheres = np.asarray(u_equivalent(run.crystal.u_aniso, run.crystal.cell))
    odd = [
        f"{label} {sphere:.4f}"
        for label, sphere in zip(run.crystal.labels, spheres, strict=True)
        if not SMALL_U < sphere < LARGE_U
    ]
    text = f"U_eq outside {SMALL_U:g} to {LARGE_U:g} Å²: {', '.join(odd)}" if odd else "all U_eq are of usual size"
    yield judged(not odd, text, "wrong element, partial occupancy or disorder?")
    overfull = [note for note in run.crystal.notes if kind_of(note) == OVERFULL]
    if overfull:
        yield Verdict(WARN, "; ".join(overfull), "tie the occupancies in the model, or fix one of them")
    notes = run.record.get("derived", {}).get("notes", [])
    left_out = [note["text"] for note in notes if note["kind"] == NO_HYDROGEN]
    if left_out:
        yield Verdict(WARN, "; ".join(left_out), "repeat with --hydrogen ride where they matter")
    kind = _two_ways(run.crystal)
    if kind:
        yield Verdict(
            WARN,
            f"{run.crystal.spacegroup} has {kind}, and one run cannot say whether it is this one",
            "refine the inverted structure (`pendel invert` writes it), too, and use `pendel compare`",
        )


def _two_ways(crystal: Crystal) -> str:
    """What inversion changes: the hand, where no operation mirrors; else the absolute structure; or nothing."""
    if is_centrosymmetric(crystal):
        return ""
    proper = np.linalg.det(np.asarray(crystal.rotations, dtype=float)) > 0
    return "a hand" if np.all(proper) else "an absolute structure"
