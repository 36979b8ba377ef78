"""From a model to a flat vector: which sites it has, how they are constrained, which belong to a frame."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpyro.distributions import biject_to
from numpyro.distributions.transforms import Transform

from pendel.base import Array, InputError


@dataclasses.dataclass(frozen=True)
class Site:
    """One latent site of a model in the unconstrained vector."""

    name: str
    shape: tuple[int, ...]  # of the unconstrained value
    transform: Transform  # unconstrained -> constrained
    event_dims: int  # of its distribution
    plate: str | None  # the plate of frames it belongs to
    profile: bool  # a curve over the frames with one joint prior, not independent values in a plate
    fixed: float | None  # constrained value during MAP, for spreads of hierarchies


@dataclasses.dataclass(frozen=True)
class Layout:
    """Order of the unconstrained vector z: global sites first, then plate by plate, frame by frame.

    `plates` maps the name of a plate to (offset in z, frames, numbers per frame).
    """

    sites: tuple[Site, ...]
    plates: Mapping[str, tuple[int, int, int]]
    observations: tuple[tuple[str, str, Array], ...]  # observed site, its plate, the frame of each observation
    globals: int
    size: int

    def split(self, z: Float[Array, " n"]) -> dict[str, Array]:
        """Unconstrained value of every site."""
        values, position = {}, 0
        column = dict.fromkeys(self.plates, 0)
        for site in self.sites:
            size = int(np.prod(site.shape))
            if site.plate is None:
                values[site.name] = z[position : position + size].reshape(site.shape)
                position += size
                continue
            offset, frames, width = self.plates[site.plate]
            block = z[offset : offset + frames * width].reshape(frames, width)
            first = column[site.plate]
            values[site.name] = block[:, first : first + size // frames].reshape(site.shape)
            column[site.plate] = first + size // frames
        return values

    def join(self, values: Mapping[str, Array]) -> Float[Array, " n"]:
        """One vector of the values by site, each already on the whole real line; the inverse of `split`."""
        parts = [jnp.ravel(values[site.name]) for site in self.sites if site.plate is None]
        for plate, (_, frames, _) in self.plates.items():
            columns = [jnp.reshape(values[s.name], (frames, -1)) for s in self.sites if s.plate == plate]
            parts += [jnp.ravel(jnp.concatenate(columns, axis=1))] if columns else []
        return jnp.concatenate(parts) if parts else jnp.zeros(0)

    def constrain(self, z: Float[Array, " n"]) -> dict[str, Array]:
        """Constrained (physical) value of every site."""
        return self.constrain_values(self.split(z))

    def constrain_values(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Constrained from unconstrained values of some sites."""
        return {s.name: jnp.asarray(s.transform(values[s.name])) for s in self.sites if s.name in values}

    def constrain_many(self, z: Float[Array, "draws n"]) -> dict[str, Array]:
        """Constrained values of many vectors, the draws on the leading axis."""
        return jax.vmap(self.constrain)(z)

    def unconstrain(self, values: Mapping[str, Array]) -> Float[Array, " n"]:
        """The vector of constrained site values."""
        return self.join(
            {site.name: jnp.asarray(site.transform.inv(jnp.asarray(values[site.name]))) for site in self.sites}
        )

    def log_det_jacobian(self, values: Mapping[str, Array]) -> Float[Array, ""]:
        """log |d constrained / d unconstrained| of some sites: turns their density into one of unconstrained values."""
        total = jnp.zeros(())
        for site in (site for site in self.sites if site.name in values):
            value = values[site.name]
            total = total + jnp.sum(site.transform.log_abs_det_jacobian(value, site.transform(value)))
        return total

    def passes(self) -> dict[str, np.ndarray]:
        """Forward passes of every site: one per element of a global site, one per number of a frame's site."""
        found, position, column = {}, 0, dict.fromkeys(self.plates, 0)
        for site in self.sites:
            size = int(np.prod(site.shape))
            if site.plate is None:
                found[site.name] = np.arange(position, position + size)
                position += size
            else:
                width, first = size // site.shape[0], column[site.plate]
                found[site.name] = self.globals + np.arange(first, first + width)
                column[site.plate] += width
        return found

    def names(self) -> tuple[str, ...]:
        """A name for every element of z, e.g. `displacement[2]` or `tilt[17,0]`."""
        labels = {
            site.name: np.array(
                [f"{site.name}{list(i)}".replace(" ", "") if i else site.name for i in np.ndindex(site.shape)]
            )
            for site in self.sites
        }
        order = self.join(
            {name: jnp.arange(float(len(label))).reshape(self._shape(name)) for name, label in labels.items()}
        )
        owner = self.join({s.name: jnp.full(s.shape, float(k)) for k, s in enumerate(self.sites)})
        return tuple(str(labels[self.sites[int(k)].name][int(i)]) for k, i in zip(owner, order, strict=True))

    def _shape(self, name: str) -> tuple[int, ...]:
        return next(site.shape for site in self.sites if site.name == name)


def make_layout(trace: Mapping[str, dict], *, with_fixed: bool) -> Layout:
    """Lay out the latent sites of a traced model; see `pendel.infer.target.make_target` for what a model says of them.

    Args:
        with_fixed: include the spreads (SVI, HMC) or leave them out (MAP).
    """
    sites, observations, frames_of = [], [], {}
    for name, site in trace.items():
        if site["type"] != "sample":
            continue
        if site["is_observed"]:
            if "frame" in site["infer"]:
                plate, frame = _frames_of_observations(name, site)
                observations.append((name, plate, frame))
                frames_of.setdefault(plate, int(np.max(frame, initial=-1)) + 1)  # where frames share every parameter
            continue
        fixed = site["infer"].get("fixed_in_map")
        if fixed is not None and not with_fixed:
            continue
        transform = biject_to(site["fn"].support)
        shape = tuple(transform.inverse_shape(site["value"].shape))
        named = site["infer"].get("plate")
        plate = named or next((f.name for f in site["cond_indep_stack"] if f.name.startswith("frames")), None)
        if plate is not None:
            frames_of[plate] = shape[0]
        event_dims = site["fn"].event_dim
        sites.append(Site(name, shape, transform, event_dims, plate, named is not None, fixed))
    count = sum(int(np.prod(site.shape)) for site in sites if site.plate is None)
    plates, offset = {}, count
    for plate, frames in frames_of.items():
        width = sum(int(np.prod(site.shape)) // frames for site in sites if site.plate == plate)
        plates[plate] = (offset, frames, width)
        offset += frames * width
    return Layout(tuple(sites), plates, tuple(observations), count, offset)


def _frames_of_observations(name: str, site: dict) -> tuple[str, np.ndarray]:
    plate = site["infer"].get("plate")
    if plate is None:
        raise InputError(
            found=f"the observed site {name!r} has frames and no infer['plate']",
            expected="the name of the plate of frames",
            do='sample it with infer={"plate": name of the plate of frames, "frame": experiment.frame_index}',
        )
    return plate, np.asarray(site["infer"]["frame"])
