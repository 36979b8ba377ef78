"""The posterior for another prior from the draws of a finished run, by importance weights."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import arviz as az
import numpy as np
import numpyro.distributions as dist
import xarray as xr
from jaxtyping import Float

from pendel.base import Array, InputError, listed
from pendel.files.parameters_csv import Parameter
from pendel.judge.parameters import parameter_facts
from pendel.judge.verdicts import largest_good_k

PRIOR = re.compile(r"\s*(?P<site>\w+)\s*=\s*(?P<family>[A-Za-z]\w*)\s*\((?P<numbers>[^()]*)\)\s*")
EXAMPLE = "displacement=Normal(0, 0.1)"
EQUAL = 1e-9  # range of log weights below which all are the same


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reweighted:
    """Parameters of the run, and those of the posterior for the other prior.

    `pareto_k` of the weights is at most `good_k`; `draws` [equivalent number]: 1 / sum of the squared weights.
    """

    before: list[Parameter]
    after: list[Parameter]
    pareto_k: float
    good_k: float
    draws: float


def reweighted(tree: xr.DataTree, texts: Sequence[str]) -> Reweighted:
    """The posterior of a run for other priors of some of its sites, one text for each, e.g. "b=HalfNormal(0.1)".

        w_d = product over sites s of p_new(x_sd) / p_old(x_sd | all else of draw d),  Pareto smoothed

    The new prior holds for every number of a site, independently of all others, also where the old one depended on
    other sites.

    Args:
        tree: the contents of posterior.nc.

    Raises:
        InputError: a text that is no prior, a site that the run does not have or whose prior it did not keep, no draw
            that the new prior allows, or weights whose Pareto k says that few draws carry the result.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry, J. Mach. Learn. Res. 25, 72 (2024).
    """
    ratio: Array = np.zeros(())
    for site, prior in _priors(tree, texts).items():
        values, before = (np.asarray(tree[group][site]) for group in ("posterior", "log_prior"))
        ratio = ratio + _log_density(prior, values) - before
    k, weights, efficiency = _smoothed(tree, np.ravel(ratio), texts)
    good = largest_good_k(int(efficiency * len(weights)))
    if k > good:
        raise InputError(
            found=f"the importance weights of {len(weights)} draws for {listed(texts)} have Pareto k {k:.2f}",
            expected=f"at most {good:.2f}, because the result rests on a few draws otherwise",
            do="refine again with a copy of the model that has the other prior",
        )
    after = parameter_facts(tree, weights)
    draws = float(1 / np.sum(weights**2))
    return Reweighted(before=parameter_facts(tree), after=after, pareto_k=k, good_k=good, draws=draws)


def read_prior(text: str) -> tuple[str, dist.Distribution]:
    """Site and distribution of a text SITE=FAMILY(numbers), where FAMILY is a class of numpyro.distributions.

    Nothing is evaluated: the family is a name, and what stands in brackets has to be numbers.
    Raises InputError for any other text, for numbers that the family does not take, and unless one draw is one number.

    >>> read_prior("b = LogNormal(-2.3, 0.5)")[0]
    'b'
    """
    found = PRIOR.fullmatch(text)
    if found is None:
        raise _no_prior(text)
    family: Any = getattr(dist, found["family"], None)
    if not (isinstance(family, type) and issubclass(family, dist.Distribution)):
        raise _no_prior(text, f"; numpyro.distributions has no {found['family']}")
    try:
        numbers = [float(number) for number in found["numbers"].split(",") if number.strip()]
        prior = family(*numbers, validate_args=True)
        is_fit = prior.batch_shape == prior.event_shape == () and prior.support is not None and not prior.is_discrete
    except (TypeError, ValueError, AttributeError, IndexError, NotImplementedError) as error:
        raise _no_prior(text, f" ({' '.join(str(error).split())})") from error
    if not (is_fit and np.all(np.isfinite(numbers))):
        raise _no_prior(text, "; one draw of it is not one finite real number")
    return found["site"], family(*numbers, validate_args=False)  # values outside of the support are expected


def _no_prior(text: str, why: str = "") -> InputError:
    return InputError(
        found=f"--prior {text!r} is no prior{why}",
        expected="a site, the name of a distribution of one number in numpyro.distributions, and its numbers",
        do=f"write e.g. --prior {EXAMPLE!r}",
    )


def _priors(tree: Any, texts: Sequence[str]) -> dict[str, dist.Distribution]:
    """The distribution of every site; raises InputError for one without a prior in the file, or named twice."""
    read = [read_prior(text) for text in texts]
    known = sorted(map(str, tree["log_prior"].data_vars)) if "log_prior" in tree.children else []
    if not known:
        raise InputError(
            found="the file posterior.nc has no group log_prior",
            expected="a run of this version, which keeps the density of its priors",
            do="repeat the run with --force",
        )
    for site, _ in read:
        if site not in known or [name for name, _ in read].count(site) > 1:
            raise InputError(
                found=f"--prior for {site}, which is no site of the run or named twice",
                expected=f"one of {listed(known, most=30)}, each once",
                do="change --prior",
            )
    return dict(read)


def _log_density(prior: Any, values: Float[np.ndarray, "chain draw *shape"]) -> Float[np.ndarray, "chain draw"]:
    """Summed over the numbers of a site; minus infinity where one of them is outside of the support."""
    density = np.where(prior.support(values), prior.log_prob(values), -np.inf)
    return density.reshape(*values.shape[:2], -1).sum(axis=-1)


def _smoothed(
    tree: Any, ratio: Float[np.ndarray, " draws"], texts: Sequence[str]
) -> tuple[float, Float[np.ndarray, " draws"], float]:
    """Pareto k, normalised weights, and how many independent draws one draw is worth."""
    from arviz_stats.base.array import array_stats as stats  # half a second: not before it is needed

    array_stats: Any = stats
    allowed = np.isfinite(ratio)
    if not allowed.any():
        raise InputError(
            found=f"no draw of the run is possible under {listed(texts)}",
            expected="a prior that allows what the run found",
            do="change --prior",
        )
    efficiency = 1.0
    if tree["posterior"].sizes["chain"] > 1:
        lp = tree["sample_stats"]["lp"]
        efficiency = float(np.clip(az.ess(lp.values) / lp.size, 0.05, 1.0))
    weights = np.zeros(len(ratio))
    if np.ptp(ratio[allowed]) < EQUAL:
        weights[allowed] = 1 / allowed.sum()
        return 0.0, weights, efficiency
    smooth, k = array_stats.psislw(-ratio[allowed], r_eff=efficiency)  # it takes a log likelihood, w = 1 / p
    weights[allowed] = np.exp(smooth - np.max(smooth))
    return float(k), weights / weights.sum(), efficiency


def changes(found: Reweighted) -> list[tuple[Parameter, Parameter]]:
    """Every refined number of the structure before and after."""
    after: Mapping[tuple[str, str], Parameter] = {(one.site, one.label): one for one in found.after}
    return [(one, after[one.site, one.label]) for one in found.before if one.is_structure and one.is_refined]
