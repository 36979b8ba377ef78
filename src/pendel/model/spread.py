"""Standard deviations of hierarchies: what MAP must not maximise together with what they spread."""

import dataclasses
from typing import Any

import numpyro
import numpyro.distributions as dist


@dataclasses.dataclass(frozen=True)
class Spread:
    """A standard deviation s ~ HalfNormal(scale), which has the value `in_map` while the maximum is sought.

    The joint density of a hierarchy grows without bound as its standard deviation goes to zero, so the maximum is
    sought at a fixed value, from which the spread is then estimated: from what it spreads, as that is known, or with it
    integrated out, if `integrated`. The second takes longer, and arrives in one step where most of what it spreads is
    known little better than from the spread itself.
    """

    scale: float
    in_map: float
    integrated: bool = False

    def sample(self, name: str, size: int | None = None) -> Any:
        """The site `name` of a NumPyro model: one number, or `size` of them."""
        prior = dist.HalfNormal(self.scale)
        prior = prior if size is None else prior.expand([size]).to_event(1)
        return numpyro.sample(name, prior, infer={"fixed_in_map": self.in_map, "integrated": self.integrated})
