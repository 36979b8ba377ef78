"""README and docs run as doctests, their commands exist, and the site builds without a warning."""

import doctest
import html
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import pendel
from pendel.cli.main import app
from pendel.datasets import example

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```(?:python|pycon)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```(?:console|sh|bash)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(pendel [^`]+)`")
NEEDS_RUN = ("run_files.md",)
# Scattering of point atoms, once: a model with the sites of a refinement, for a run in seconds.
POINT_ATOMS = """
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from pendel.model.errors import gaussian
from pendel.crystal.parameters import displaced

def model(crystal, datasets, *, intensities=None, mask=None):
    moves = dist.Normal(0, 0.05).expand([len(crystal.position_basis)]).to_event(1)
    fract = numpyro.deterministic("fract", displaced(crystal, numpyro.sample("displacement", moves)))
    numpyro.deterministic("U_aniso", jnp.asarray(crystal.u_aniso))
    (data,) = datasets
    experiment = data.experiment
    with numpyro.plate("frames", data.plan.frames):
        log_scale = numpyro.sample("log_scale", dist.Normal(5.0, 3.0))
        log_thickness = numpyro.sample("log_thickness", dist.Normal(6.5, 0.3))
    numpyro.deterministic("thickness", jnp.exp(log_thickness))
    waves = jnp.sum(jnp.cos(2 * jnp.pi * jnp.asarray(experiment.hkl) @ fract.T), axis=1)
    calculated = numpyro.deterministic("calculated", jnp.exp(log_scale)[experiment.frame_index] * waves**2)
    with numpyro.handlers.mask(mask=True if mask is None else mask[0]):
        numpyro.sample(
            "intensity",
            gaussian(calculated, experiment.sigma, a=30.0, b=3.0),
            obs=None if intensities is None else intensities[0],
            infer={"plate": "frames", "frame": experiment.frame_index},
        )
"""


@pytest.fixture(scope="module")
def folder_with_run(tmp_path_factory) -> Path:
    """A folder with the finished run `run`."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "point_atoms.py").write_text(POINT_ATOMS)
    settings = pendel.Settings(
        model=str(folder / "point_atoms.py"), infer="map", frames="::11", g_max=0.9, sg_max=0.004, tilts=3
    )
    pendel.refine(example().structure, [example().data], folder / "run", settings)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_on_a_page_runs(page: Path, request, tmp_path: Path, monkeypatch):
    blocks = FENCE.findall(page.read_text(encoding="utf-8"))
    assert all(">>>" in block for block in blocks), "code that no doctest runs"
    needs_run = page.name in NEEDS_RUN
    monkeypatch.chdir(request.getfixturevalue("folder_with_run") if needs_run else tmp_path)
    parsed = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, page.name, str(page), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    runner.run(parsed, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_a_page_exist(page: Path):
    for command in commands(page.read_text(encoding="utf-8")):
        words = shlex.split(command.replace("...", ""), comments=True)
        if len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
            check_command(words[1:], known_commands())


def test_a_command_that_does_not_exist_is_found():
    page = "```console\n.venv/bin/pendel refine a.cif b.cif_pets --ouut run  # a slip\n```\nand `pendel refinee`"
    found = commands(page)
    assert len(found) == 2
    for command in found:
        with pytest.raises(AssertionError):
            check_command(shlex.split(command, comments=True)[1:], known_commands())


def commands(text: str) -> list[str]:
    """Calls of pendel in the shell blocks and between backticks of a page."""
    lines = [line.strip() for block in SHELL.findall(text) for line in block.splitlines()]
    calls = [line[line.index("pendel") :] for line in lines if re.match(r"(\S+=\S+ )*(\S*/)?pendel ", line)]
    return calls + INLINE.findall(text)


def known_commands() -> dict:
    command: Any = typer.main.get_command(app)
    return command.commands


def check_command(words: list[str], known: dict) -> None:
    assert words[0] in known, f"no command pendel {words[0]}"
    command = known[words[0]]
    if hasattr(command, "commands"):
        if len(words) > 1 and words[1] != "list|fetch":
            check_command(words[1:], command.commands)
        return
    options = {name for parameter in command.params for name in parameter.opts}
    for word in words[1:]:
        assert not word.startswith("--") or word.partition("=")[0] in options, f"no option {word} of {words[0]}"


def test_the_page_of_options_has_them_all():
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    table = option_table(known_commands())
    assert "\n".join(table) + "\n" in page, "\n".join(["the table of docs/options.md should be", *table])


def option_table(known: dict) -> list[str]:
    """Lines of Markdown: every option of the command line once, with its default, meaning and commands."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for command in (name for name in known if not hasattr(known[name], "commands")):
        for parameter in known[command].params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                help = re.sub(r"\\\[", "[", parameter.help).replace("|", r"\|")
                rows.setdefault((f"`{parameter.opts[0]}`", shown(parameter.default), help), []).append(command)
    lines = [f"| {' | '.join(row)} | {', '.join(commands)} |" for row, commands in rows.items()]
    return ["| option | default | meaning | commands |", "|---|---|---|---|", *lines]


def shown(default: Any) -> str:
    """A default in the table: none where it is derived or the option is a switch."""
    (value,) = default if isinstance(default, list) else (default,)
    return "" if value is None or value is False or value == "" or callable(value) else f"`{value}`"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` builds it: warnings are errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        str(ROOT / "docs"),
        str(folder),
    ]
    finished = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    assert finished.returncode == 0, finished.stderr
    return folder


def test_every_page_is_on_the_site(site: Path):
    navigation = (site / "index.html").read_text(encoding="utf-8")
    for page in PAGES:
        if page.parent.name == "docs" and page.stem != "index":
            assert (site / f"{page.stem}.html").is_file()
            assert f'href="{page.stem}.html"' in navigation


def test_formulas_and_signatures_are_drawn(site: Path):
    theory = (site / "theory_simulator.html").read_text(encoding="utf-8")
    assert theory.count("<math ") > 100
    assert "$" not in re.sub(r"<(script|style|pre)\b.*?</\1>", "", theory, flags=re.DOTALL)
    api = html.unescape(re.sub(r"<[^>]+>", "", (site / "api.html").read_text(encoding="utf-8")))
    assert "tilt: Float[Array, 'frames 2']" in api
    assert not re.search(r"\[Array, ('[^']*')\] \| \w+\[ndarray, \1\]", api)  # one shape, written once


def test_reading_the_site_needs_no_network(site: Path):
    for page in site.glob("*.html"):
        loaded = re.findall(r'<(?:script|img|link)\b[^>]*?(?:src|href)="([^"]+)"', page.read_text(encoding="utf-8"))
        assert [address for address in loaded if re.match(r"(https?:)?//", address)] == []


def test_every_public_name_is_in_the_api():
    documented = re.findall(
        r"auto(?:class|function):: pendel\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE
    )
    assert sorted(documented) == sorted(pendel.__all__)
