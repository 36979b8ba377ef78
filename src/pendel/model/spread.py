"""Standard deviations of hierarchies: what MAP must not maximise together with what they spread."""

import dataclasses
from typing import Any

import numpyro
import numpyro.distributions as dist


@dataclasses.dataclass(frozen=True)
class Spread:
    """A standard deviation s ~ HalfNormal(scale), which has the value `in_map` while the maximum is sought.

    The joint density of a hierarchy grows without bound as its standard deviation goes to zero, so the maximum is
    sought at a fixed value, and s is estimated between two fits. Usually that is a step towards the scatter of the
    parameters it describes. With `integrated`, s moves to the maximum of its density with those parameters integrated
    out. That takes longer, and is needed where the data say little of most of the parameters: then the usual steps are
    small.
    """

    scale: float
    in_map: float
    integrated: bool = False

    def sample(self, name: str, size: int | None = None) -> Any:
        """The site `name` of a NumPyro model: one number, or `size` of them."""
        prior = dist.HalfNormal(self.scale)
        prior = prior if size is None else prior.expand([size]).to_event(1)
        return numpyro.sample(name, prior, infer={"fixed_in_map": self.in_map, "integrated": self.integrated})
