"""The simulator without a tilt series: Pendellösung of two beams, and a thickness from one zone-axis pattern.

    python examples/zone_axis_thickness_series.py

1. Aluminium, tilted so that 200 alone is excited. With two beams the intensity is known in closed form,

       I(t) = sin²(pi t sqrt(1 + w²) / xi) / (1 + w²),      xi = 1 / (wavelength |U_g|),      w = S xi,

   at the Bragg position (w = 0) and beside it. xi is the Pendellösung length, and the simulator must agree.
2. Near [001] many beams are strong and beat with each other. The intensities of twelve reflections are measured at one
   unknown thickness, with noise and an unknown scale. A scan over thickness shows several basins; `fit_map` starts in
   the best of them with a model of ten lines, and its Laplace uncertainty is that of the thickness.

Writes a figure of both. `--quick` takes fewer thicknesses and beams.
"""

# %%
import argparse
import dataclasses
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from matplotlib.figure import Figure

import pendel
from pendel.crystal.cell import reciprocal_matrix
from pendel.crystal.form_factors import form_factors
from pendel.experiment.frames import Experiment, central_vectors, excitation_error
from pendel.model import Illumination, gaussian, simulate
from pendel.simulate.scattering import structure_factors
from pendel.simulate.thickness import single

ALUMINIUM = """data_aluminium
_cell_length_a 4.05
_cell_length_b 4.05
_cell_length_c 4.05
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_U_iso_or_equiv
Al1 Al 0 0 0 0.0102
"""
WAVELENGTH = pendel.wavelength(200e3)
ZONE = [(h, k, 0) for h in (-4, -2, 0, 2, 4) for k in (-4, -2, 0, 2, 4) if 0 < h * h + k * k <= 16]
TRUTH = 740.0  # Å


# %%
def still_pattern(crystal: pendel.Crystal, hkl, alpha: float, beta: float) -> Experiment:
    """One still pattern: [001] along the beam, then turned by beta about y and by alpha about x [deg]."""
    count = len(hkl)
    return Experiment(
        name="aluminium",
        geometry="rotation",
        cell=crystal.cell,
        wavelength=WAVELENGTH,
        dstar_max=1.0,
        selection="all",
        notes=(),
        orientation=reciprocal_matrix(crystal.cell),
        frame_id=np.array([1]),
        alpha=np.array([alpha]),
        beta=np.array([beta]),
        semi_angle=np.array([0.01]),  # not read: a plan with one tilt takes the centre
        frame_index=np.zeros(count, dtype=int),
        hkl=np.asarray(hkl),
        intensity=np.ones(count),
        sigma=np.ones(count),
        weight=np.ones(count, dtype=int),
    )


def two_beams(crystal: pendel.Crystal, offset_deg: float, thickness: np.ndarray):
    """Intensity of 200 against thickness [Å], off its Bragg position: simulated, closed form, and xi [Å]."""
    length = 2 / crystal.cell[0]
    bragg = -np.degrees(np.arcsin(0.5 * WAVELENGTH * length))
    # Turned by 11 degrees about g no other reflection within g_max is near the Ewald sphere: two beams are left.
    pattern = still_pattern(crystal, [(2, 0, 0)], alpha=11.0, beta=bragg + offset_deg)
    plan = pendel.make_plan(crystal, pattern, g_max=0.51, sg_max=0.003, tilts=1, dtype="float64")
    simulated = pendel.thickness_table(crystal, plan, tilt=np.zeros((1, 2)), thickness=thickness)[0]

    table = form_factors(crystal.elements, np.array([length]), "lobato")
    u_g = structure_factors(crystal, np.array([[2, 0, 0]]), table, WAVELENGTH)[0]
    xi = 1 / (WAVELENGTH * abs(complex(u_g)))
    w = xi * float(excitation_error(central_vectors(pattern), WAVELENGTH)[0])
    return np.asarray(simulated), np.sin(np.pi * thickness * np.sqrt(1 + w**2) / xi) ** 2 / (1 + w**2), xi


# %%
def model(crystal, datasets, *, intensities=None, mask=None):
    """One thickness, one scale, counting errors and 2 % of the model."""
    (data,) = datasets
    pattern = data.experiment
    with numpyro.plate("frames", 1):
        log_thickness = numpyro.sample("log_thickness", dist.Normal(jnp.log(700.0), 0.8))
        log_scale = numpyro.sample("log_scale", dist.Normal(jnp.log(jnp.max(pattern.intensity)), 2))
    nodes, weights = single(log_thickness)
    level = simulate(crystal, data, Illumination(tilt=jnp.zeros((1, 2)), thickness=nodes, weights=weights))
    numpyro.sample(
        "intensity",
        gaussian(jnp.exp(log_scale) * level, pattern.sigma, b=0.02),
        obs=None if intensities is None else intensities[0],
        infer={"plate": "frames", "frame": pattern.frame_index},
    )


def scan(table: np.ndarray, pattern: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """Misfit (chi² with the errors of the model) and best scale at every thickness of a table."""
    observed = pattern.intensity[:, None]
    weight = 1 / (pattern.sigma[:, None] ** 2 + (0.02 * observed) ** 2)
    scale = np.sum(weight * observed * table, axis=0) / np.sum(weight * table**2, axis=0)
    return np.sum(weight * (observed - scale * table) ** 2, axis=0), scale


def draw(path: Path, thickness, pairs, table, misfit) -> None:
    """Two beams above; the zone axis and the misfit of its pattern below."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    above, middle, below = figure.subplots(3, 1, sharex=True)
    for (simulated, exact, _), style, label in zip(pairs, ("-", "--"), ("at Bragg", "0.15° beside it"), strict=True):
        above.plot(thickness, exact, "black", linestyle=style, label=f"closed form, {label}")
        above.plot(thickness[::12], simulated[::12], "o", color="#0072B2", markersize=3)
    for hkl, style in (((2, 0, 0), "-"), ((2, 2, 0), "--"), ((4, 0, 0), ":")):
        middle.plot(thickness, table[ZONE.index(hkl)], "#0072B2", linestyle=style, label="".join(map(str, hkl)))
    below.semilogy(thickness, misfit, color="#0072B2", label="misfit of the pattern")
    below.axvline(TRUTH, color="#D55E00", linestyle="--", label="true thickness")
    above.set(ylabel="I(200), two beams")
    middle.set(ylabel="I near [001]")
    below.set(ylabel="chi²", xlabel="thickness [Å]")
    for axes in (above, middle, below):
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    figure.savefig(path, dpi=120)


# %%
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of the figure; a temporary one if not given")
    parser.add_argument("--quick", action="store_true", help="fewer thicknesses and beams")
    arguments = parser.parse_args()
    out = arguments.out or Path(tempfile.mkdtemp(prefix="zone-axis-"))
    out.mkdir(parents=True, exist_ok=True)
    (out / "aluminium.cif").write_text(ALUMINIUM)
    crystal = pendel.read_crystal(out / "aluminium.cif")
    thickness = np.arange(20.0, 1600.0, 10.0 if arguments.quick else 4.0)

    pairs = [two_beams(crystal, offset, thickness) for offset in (0.0, 0.15)]
    for (simulated, exact, xi), place in zip(pairs, ("at Bragg", "0.15° beside it"), strict=True):
        away = np.abs(simulated - exact).max()
        print(f"two beams, {place}: xi = {xi:.1f} Å, simulator and closed form differ by {away:.1e}")

    # A pattern half a degree off the zone axis, where equivalent reflections differ: 20,000 counts in the beam.
    g_max, sg_max = (1.1, 0.02) if arguments.quick else (1.6, 0.04)
    pattern = still_pattern(crystal, ZONE, alpha=0.4, beta=0.25)
    plan = pendel.make_plan(crystal, pattern, g_max=g_max, sg_max=sg_max, tilts=1)
    table = np.asarray(pendel.thickness_table(crystal, plan, tilt=np.zeros((1, 2)), thickness=thickness))
    exact = np.array([np.interp(TRUTH, thickness, row) for row in table])
    counts = np.random.default_rng(3).poisson(20000 * exact + 5.0)
    pattern = dataclasses.replace(pattern, intensity=counts - 5.0, sigma=np.sqrt(counts + 1.0))

    misfit, scale = scan(table, pattern)
    inner = np.flatnonzero((misfit[1:-1] < misfit[:-2]) & (misfit[1:-1] < misfit[2:])) + 1
    best = inner[np.argsort(misfit[inner])][:4]
    starts = [{"log_thickness": np.log(thickness[[i]]), "log_scale": np.log(scale[[i]])} for i in best]
    target = pendel.make_target(model, crystal, (pendel.DataSet(pattern, plan),), intensities=(pattern.intensity,))
    fit = pendel.fit_map(target, start=starts)
    found = np.exp(np.asarray(pendel.laplace_draws(fit, jax.random.key(0), 2000)["log_thickness"]))
    print(f"\n{'basin [Å]':>10}{'chi²':>12}")
    for i in best:
        print(f"{thickness[i]:>10.0f}{misfit[i]:>12.1f}")
    print(f"thickness {found.mean():.1f} ± {found.std():.1f} Å (simulated {TRUTH:.0f} Å), {len(ZONE)} reflections")
    draw(out / "pendelloesung.png", thickness, pairs, table, misfit)
    print(f"figure: {out / 'pendelloesung.png'}")


if __name__ == "__main__":
    main()
