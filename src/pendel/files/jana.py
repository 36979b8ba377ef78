"""Frames and intensities that Jana2020 embeds in the CIF of a dynamical refinement, as a `.cif_pets` file.

No description of these texts is published; the layout here is that of CIFs of Jana2020 1.3. `_Jana_m42_file` has
keywords (`ormat`: UB [Å⁻¹] by rows; `nzones`), and after a line `# Zone n` for each frame u, v, w, alpha, beta and the
semi-angle [deg], then scale and thickness [Å], in columns of nine characters that may touch. `_Jana_m90_file` has
`lambda` [Å], and after a line `Data ...` rows of h, k, l, I, sigma, number of the frame. What the refinement changed
(scales, thickness, corrections of orientation) is no measurement and is left out.
"""

import os
import re
import tempfile
from pathlib import Path
from typing import cast

import gemmi

from pendel.base import InputError, listed
from pendel.experiment.frames import Experiment
from pendel.files.document import find_block, read_cif
from pendel.files.numbers import CELL_ITEMS
from pendel.files.pets import read_pets
from pendel.files.whole_file import write_text

FRAMES, REFLECTIONS = "_jana_m42_file", "_jana_m90_file"
_DETAILS = ("_diffrn_measurement_details", "_diffrn_reflns_reduction_process")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_ROW = re.compile(r"(.{4})(.{4})(.{4})(.{9})(.{9})(.{4})")  # columns of a row whose numbers touch


def extract_pets(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, block: str | None = None, geometry: str | None = None
) -> Experiment:
    """Write the data that are embedded in a CIF of Jana2020 as a `.cif_pets` file; gives what `read_pets` reads of it.

    Args:
        path: the CIF.
        out: the file to write.
        block: name or number of the data block, where several have embedded data.
        geometry: rotation or precession, where the CIF does not say it.

    Raises InputError for a file without embedded data, data that are not as expected, and whatever `read_pets`
    refuses; nothing is written then.
    """
    path, out = Path(path), Path(out)
    if out.exists() and path.exists() and out.samefile(path):
        raise InputError(found=f"{out} is the input", expected="another file", do="choose another name")
    file = read_cif(path, "a CIF that Jana2020 wrote with its data embedded", "give the published CIF")
    found = [find_block(file.document, block, path)] if block is not None else list(file.document)
    items = [(one, _items(one)) for one in found]
    items = [(one, texts) for one, texts in items if FRAMES in texts and REFLECTIONS in texts]
    if len(items) != 1:
        names = f" ({listed(one.name for one, _ in items)})" if items else ""
        raise InputError(
            found=f"{path.name} has embedded data in {len(items) or 'no'} blocks{names}",
            expected="one block with _Jana_m42_file and _Jana_m90_file",
            do="name the block (--block)" if items else "ask the authors for the .cif_pets file of the data reduction",
        )
    ((source, texts),) = items
    text = _pets_text(path.name, source.name, texts, geometry)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / out.name
        trial.write_text(text, encoding="utf-8")
        experiment = read_pets(trial)
    write_text(out, text)
    return experiment


def _items(block: gemmi.cif.Block) -> dict[str, str]:
    """The single items of a block, by tag in lower case."""
    pairs = [cast(tuple[str, str], item.pair) for item in block if item.pair is not None]
    return {tag.lower(): gemmi.cif.as_string(text) for tag, text in pairs}


def _pets_text(name: str, block_name: str, texts: dict[str, str], geometry: str | None) -> str:
    document = gemmi.cif.Document()
    block = document.add_new_block(block_name or "jana")
    for item in CELL_ITEMS:
        if f"_cell_{item}" in texts:
            block.set_pair(f"_cell_{item}", gemmi.cif.quote(texts[f"_cell_{item}"]))
    frames, reflections = texts[FRAMES], texts[REFLECTIONS]
    wavelength = re.search(r"^lambda +(\S+)", reflections, flags=re.MULTILINE)
    value = wavelength[1] if wavelength else texts.get("_diffrn_radiation_wavelength", "?")
    block.set_pair("_diffrn_radiation_wavelength", gemmi.cif.quote(value))
    for row, numbers in enumerate(_matrix(name, frames), 1):
        for column, number in enumerate(numbers, 1):
            block.set_pair(f"_diffrn_orient_matrix_UB_{row}{column}", number)
    block.set_pair(_DETAILS[0], gemmi.cif.quote(_details(texts, geometry)))
    zones = block.init_loop("_diffrn_zone_axis_", ["id", "u", "v", "w", "alpha", "beta", "precession_angle"])
    for row in _zones(name, frames):
        zones.add_row(row)
    columns = ["index_h", "index_k", "index_l", "intensity_meas", "intensity_sigma", "zone_axis_id"]
    loop = block.init_loop("_refln_", columns)
    loop.set_all_values([list(column) for column in zip(*_rows(name, reflections), strict=True)])
    return document.as_string()


def _matrix(name: str, frames: str) -> list[list[str]]:
    """The rows of UB behind the keyword `ormat`."""
    keyword = re.search(r"^\s*ormat\b(.*)", frames, flags=re.MULTILINE | re.IGNORECASE | re.DOTALL)
    numbers = _NUMBER.findall(" ".join(keyword[1].split("\n")[:4])) if keyword else []
    if len(numbers) < 9:
        raise _unlike(
            name, f"_Jana_m42_file has {len(numbers)} numbers behind `ormat`", "the nine elements of UB [Å⁻¹]"
        )
    return [numbers[0:3], numbers[3:6], numbers[6:9]]


def _zones(name: str, frames: str) -> list[list[str]]:
    """Number, u, v, w, alpha, beta, semi-angle of every frame."""
    lines = re.split(r"^-+ *s\.u\. block", frames, maxsplit=1, flags=re.MULTILINE)[0].split("\n")
    rows = []
    for number, line in enumerate(lines):
        heading = re.match(r"# *Zone *#? *(\d+)", line, flags=re.IGNORECASE)
        if heading is None:
            continue
        numbers = _NUMBER.findall(lines[number + 1]) if number + 1 < len(lines) else []
        if len(numbers) < 6:
            what = f"_Jana_m42_file has {len(numbers)} numbers for zone {heading[1]}"
            raise _unlike(name, what, "u, v, w, alpha, beta and the semi-angle")
        rows.append([heading[1], *numbers[:6]])
    stated = re.search(r"\bnzones +(\d+)", frames)
    if not rows or (stated is not None and int(stated[1]) != len(rows)):
        states = f" and states {stated[1]}" if stated else ""
        raise _unlike(name, f"_Jana_m42_file has {len(rows)} zones{states}", "one for each frame")
    return rows


def _rows(name: str, reflections: str) -> list[list[str]]:
    """h, k, l, I, sigma and the number of the frame, of one crystal."""
    parts = re.split(r"^Data\b.*\n", reflections, flags=re.MULTILINE)
    if len(parts) != 2:
        raise _unlike(name, f"_Jana_m90_file has {len(parts) - 1} blocks of reflections", "those of one crystal")
    rows = []
    for line in parts[1].split("\n"):
        if not line.strip() or line.split()[0] == "999":
            continue
        words = line.split()
        if len(words) < 6 or not all(re.fullmatch(r"-?\d{1,3}", word) for word in words[:3]):
            columns = _ROW.match(line)
            words = [column.strip() for column in columns.groups()] if columns else []
        if len(words) < 6 or not all(_NUMBER.fullmatch(word) for word in words[:6]):
            raise _unlike(name, f"_Jana_m90_file has the row {line.strip()[:60]!r}", "h, k, l, I, sigma, frame")
        rows.append(words[:6])
    if not rows:
        raise _unlike(name, "_Jana_m90_file has no reflections", "rows of h, k, l, I, sigma, frame")
    return rows


def _details(texts: dict[str, str], geometry: str | None) -> str:
    """The free text of the data reduction, with the geometry in front when only other items say it."""
    details = "\n".join(texts[item] for item in _DETAILS if texts.get(item)).strip()
    method = texts.get("_diffrn_measurement_method", "").lower()
    if geometry is None and "data collection geometry" not in details:
        geometry = "precession" if "precession" in method else "rotation" if "rotation" in method else None
    words = {"rotation": "continuous rotation", "precession": "precession"}
    return (f"data collection geometry: {words.get(geometry, geometry)}\n" if geometry else "") + (details or "none")


def _unlike(name: str, found: str, expected: str) -> InputError:
    return InputError(
        found=f"{name}: {found}", expected=expected, do="ask the authors for the .cif_pets file of the data reduction"
    )
