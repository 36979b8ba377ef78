"""The table and the figure of `make bench`."""

import matplotlib.pyplot as plt

from pendel.simulate import beams


def as_markdown(report):
    exponent = report["exponent_of_N"]
    lines = [
        "# Benchmark\n",
        f"Made by `make bench` on {report['date']}: {report['machine']}; a large float32 product reaches",
        f"{report['peak_gflops_float32']:.0f} GFLOP/s. Seconds, best of several calls.\n",
        "## Data sets\n",
        "Five thickness nodes; gradient by coordinates, U_ij, occupancies, tilts and nodes of all frames. Operations",
        "count unpadded products. First gradient: with compilation. Memory: peak of the process, JAX included.\n",
    ]
    head = ["case", "frames", "beams a tilt", "recurrence", "loss", "gradient", "first gradient"]
    lines += heading([*head, "GFLOP/s loss", "GFLOP/s gradient", "memory [GB]"])
    for c in report["cases"]:
        kind = "compiled" if c["compiled"] else "plain JAX"
        times = [f"{c[key]:.3g}" for key in ("loss_s", "gradient_s", "first_gradient_s")]
        speeds = [f"{c['loss_gflops']:.0f}", f"{c['gradient_gflops']:.0f}", f"{c['peak_memory_gb']:.2f}"]
        lines.append(cells([c["case"], c["frames"], f"{c['beams_per_tilt']:.0f}", kind, *times, *speeds]))
    lines += ["\n## Frames spread over devices and processes of two cores\n"]
    lines += ["Quartz: 99 frames; CsPbBr3: every eighth frame. Difference: of the loss, relative to one device.\n"]
    lines += heading(["case", "spread", "loss", "gradient", "gradient, speed-up over one core", "difference"])
    for r in report["spread"]:
        one = next(other for other in report["spread"] if other["case"] == r["case"])
        gain, change = one["gradient_s"] / r["gradient_s"], abs(r["loss"] / one["loss"] - 1)
        row = [r["case"], r["spread"], f"{r['loss_s']:.3g}", f"{r['gradient_s']:.3g}", f"{gain:.2f}", f"{change:.0e}"]
        lines.append(cells(row))
    lines += ["\n## Length of the segments\n"]
    lines += [
        f"The library takes {beams.SEGMENT_DEG} degrees. Change: of the loss, from the beams of longer segments.\n"
    ]
    lines += heading(["case", "degrees", "segments", "beams", "loss", "gradient", "change"])
    for r in report["segment_lengths"]:
        sizes, times = " and ".join(map(str, r["beams"])), (f"{r[key]:.3g}" for key in ("loss_s", "gradient_s"))
        lines.append(cells([r["case"], r["degrees"], r["segments"], sizes, *times, f"{r['change']:.0e}"]))
    lines += [
        "\n## One segment of N beams\n",
        f"{report['tilts']} tilts, {report['thickness']:.0f} Å, one thickness, complex matrix.",
        f"From N = {report['sweep'][1]['N']} on time grows as",
        f"N^{exponent['loss_s']:.2f} (loss) and N^{exponent['gradient_s']:.2f} (gradient). Errors: largest of any",
        "intensity, incident beam = 1, against float64 eigen-decomposition. Dense methods: plain JAX, one matrix a",
        "tilt; 64 and 128 are complex64 and complex128.\n",
    ]
    dense_keys = [f"{name}_{kind}" for name in ("expm", "expm64", "eigh") for kind in ("s", "error")]
    head = ["N", "terms", "loss", "gradient", "GFLOP/s", "error", "expm 64", "error", "expm 128", "error", "eigh 64"]
    lines += heading([*head, "error", "expm 64 / loss"])
    for r in report["sweep"]:
        row = [r["N"], r["steps"], f"{r['loss_s']:.3g}", f"{r['gradient_s']:.3g}", f"{r['gflops']:.0f}"]
        row += [f"{r['error']:.0e}", *(f"{r[key]:.2g}" if key in r else "" for key in dense_keys)]
        lines.append(cells([*row, f"{r['expm_s'] / r['loss_s']:.0f}" if "expm_s" in r else ""]))
    return "\n".join(lines) + "\n"


def cells(values):
    return "| " + " | ".join(map(str, values)) + " |"


def heading(names):
    return [cells(names), cells("---" for _ in names)]


def plot(report, path):
    figure, axes = plt.subplots(figsize=(5.5, 4), layout="constrained")
    for key, label, style in (
        ("loss_s", "pendel", "o-"),
        ("gradient_s", "pendel, gradient", "s-"),
        ("expm_s", "dense exponential, complex64", "^--"),
        ("eigh_s", "dense eigen-decomposition", "v--"),
    ):
        rows = [row for row in report["sweep"] if key in row]
        axes.loglog([r["N"] for r in rows], [r[key] for r in rows], style, label=label)
    axes.set(xlabel="beams N", ylabel="seconds for 8 tilts", title="One segment, 600 Å")
    axes.legend()
    axes.grid(True, which="both", alpha=0.2)
    figure.savefig(path, dpi=150)
