"""Everything a user can set. One field of `Settings` says all about one option.

The command line, the checks, the table in the docs and the keys of `settings` in run.json come from these fields;
`pendel.run.stages.STAGES` says which stages are made anew when one changes.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pendel.failures import InputError

NUMBERS = re.compile(r"(\d{1,9})(?:\s*-\s*(\d{1,9}))?")  # one whole number, or a first and a last one
MOST_NUMBERS = 100_000
SLICE = re.compile(r"^(-?\d*)(?::(-?\d*))?(?::(-?\d*))?$")
READING = ("refine", "check", "simulate")  # commands that read a structure and measurements
MODEL_OPTIONS = ("thickness", "absorption", "mosaicity", "contraction", "reflection_error")
FITTING = ("refine", "check")  # a check takes the options of the refinement that it is for
EXPECTED_MINUTES = "minutes_to_the_maximum"  # what a run tells at its beginning
THICKNESSES = ("taper", "step", "single", "wedge", "lens", "cylinder")  # pendel.model.thickness_prior.FAMILIES
TERM_CHOICES = ("auto", "on", "off")  # pendel.model.blocks.CHOICES


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a number has to be, in words and as a test; `example` goes into the message after a wrong value."""

    words: str
    test: Callable[[float], bool]
    example: str = ""


POSITIVE = Bounds("a positive number", lambda x: x > 0)
FRACTION = Bounds("a fraction, 0 to 0.9", lambda x: 0 <= x < 0.9, "0.1")
ERROR = Bounds("a fraction between 0 and 0.2", lambda x: 0 < x < 0.2, "0.01")
FROM_0 = Bounds("a whole number from 0", lambda x: x >= 0)
FROM_1 = Bounds("a whole number from 1", lambda x: x >= 1)


def option(
    default: Any,
    help: str,
    *,
    commands: tuple[str, ...],
    choices: tuple[str, ...] = (),
    bounds: Bounds | None = None,
    per_data: bool = False,
    name: str | None = None,
) -> Any:
    """A field of a frozen dataclass that is an option on the command line.

    Args:
        default: None where the value is derived from the data or the model.
        help: what it means, with its unit in square brackets; "{choices}" stands for the allowed words.
        commands: that have the option.
        choices: the allowed words; any when empty. None is allowed where it is the default.
        bounds: of a number.
        per_data: it may be given once for every data set.
        name: of the option without its dashes; that of the field when not given.
    """
    words = ", ".join(choices[:-1]) + " or " + choices[-1] if choices else ""
    metadata = {"help": help.replace("{choices}", words), "commands": commands, "choices": choices, "bounds": bounds}
    return dataclasses.field(default=default, metadata={**metadata, "per_data": per_data, "name": name})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a user can set; None means derived from the data.

    `frames`, `leave_out`, `cell`, `geometry`, `integration` and `energy_ev` are one value for all data sets, or a tuple
    with one for each of them.
    """

    model: str = option("robust", "a shipped model, or a Python file", commands=FITTING)
    thickness: str | None = option(None, "{choices}", choices=THICKNESSES, commands=FITTING)
    absorption: str | None = option(
        None,
        "by thermal diffuse scattering: {choices}; auto where the absorption length is below 5700 Å",
        choices=TERM_CHOICES,
        commands=FITTING,
    )
    mosaicity: str | None = option(
        None,
        "spread of the orientation inside the crystal: {choices}; auto where the data file states one; it takes three "
        "times as long",
        choices=TERM_CHOICES,
        commands=FITTING,
    )
    contraction: str | None = option(
        None,
        "one refined contraction of the electrons of all atoms but hydrogen: {choices}; on unless off",
        choices=("on", "off"),
        commands=FITTING,
    )
    reflection_error: str | None = option(
        None,
        "errors common to equivalent reflections: {choices}; on unless off",
        choices=("on", "off"),
        commands=FITTING,
    )
    infer: str = option("svi", "{choices}", choices=("map", "svi", "nuts", "mclmc", "smc"), commands=(*FITTING, "demo"))
    select: str = option(
        "nearest",
        "nearest: each measurement once; klar: the published rule",
        choices=("nearest", "klar"),
        commands=FITTING,
    )
    rsg: float = option(0.9, "klar: largest |S_g| / span", bounds=POSITIVE, commands=FITTING)
    dsg: float = option(0.0015, "klar: smallest span - |S_g| [Å⁻¹]", commands=FITTING)
    g_max: float | None = option(
        None, "cutoff of the beams [Å⁻¹]; from the data's resolution", bounds=POSITIVE, commands=READING
    )
    sg_max: float | None = option(
        None,
        "choose the beams by their excitation error instead: the largest one [Å⁻¹], as in published settings",
        bounds=POSITIVE,
        commands=READING,
    )
    beam_error: float | None = option(
        None,
        "R of amplitudes that missing beams may cost; 0.01 unless --sg-max is given",
        bounds=ERROR,
        commands=FITTING,
    )
    tilts: int | None = option(
        None, "tilts per frame; from thickness and resolution", bounds=POSITIVE, commands=READING
    )
    frames: str | tuple[str, ...] = option(":", "start:stop:step, e.g. ::3", per_data=True, commands=FITTING)
    leave_out: str | tuple[str, ...] | None = option(
        None, "frames that are left out, by their numbers in the file, e.g. 17,40-43", per_data=True, commands=FITTING
    )
    cell: str | tuple[str, ...] = option(
        "header",
        "which cell counts: {choices}",
        choices=("header", "structure", "ub"),
        per_data=True,
        commands=READING,
    )
    geometry: str | tuple[str | None, ...] | None = option(
        None,
        "{choices}, instead of what the file says",
        choices=("rotation", "precession"),
        per_data=True,
        commands=READING,
    )
    integration: str | tuple[str, ...] = option(
        "auto",
        "what intensities are integrals of: {choices}; auto: curve if frames repeat them",
        choices=("auto", "sweep", "curve"),
        per_data=True,
        commands=READING,
    )
    energy_ev: float | tuple[float | None, ...] | None = option(
        None,
        "beam energy [eV], instead of the file's wavelength",
        bounds=POSITIVE,
        per_data=True,
        commands=READING,
    )
    block: str | None = option(
        None,
        "name or number of the structure's data block, where its file has several",
        commands=(*READING, "invert"),
    )
    hydrogen: str = option(
        "ride",
        "hydrogen of the structure file rides on its parents, is free, or is left out: {choices}",
        choices=("ride", "free", "off"),
        commands=READING,
    )
    adps: str = option(
        "keep",
        "displacements of all atoms but hydrogen: {choices} what the file has",
        choices=("iso", "aniso", "keep"),
        commands=FITTING,
    )
    memory: float | None = option(  # it changes the size of the pieces of a calculation, not its result
        None,
        "GB for simulations; four fifths of the machine's; programs take about 2 more",
        bounds=POSITIVE,
        commands=FITTING,
    )
    holdout: float = option(0.0, "fraction of the unique hkl left out", bounds=FRACTION, commands=FITTING)
    guides: int = option(
        1,
        "fits of SVI from different seeds, to see whether they agree",
        bounds=FROM_1,
        commands=FITTING,
    )
    seed: int = option(0, "of everything random", bounds=FROM_0, commands=(*READING, "demo"))

    def __post_init__(self) -> None:
        """A tuple with the value of one data set is that value."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and len(value) == 1:
                object.__setattr__(self, field.name, value[0])

    def model_options(self) -> dict[str, Any]:
        """The settings that are options of the model, by name; None leaves the model's own value."""
        return {name: getattr(self, name) for name in MODEL_OPTIONS}


def settings_from(plain: Mapping[str, Any]) -> Settings:
    """Settings from plain values by name, such as those of run.json, where values for each data set are lists."""
    values: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in plain.items()}
    return Settings(**values)


def of_data[T: (str, str | None, float | None)](value: T | tuple[T, ...], number: int) -> T:
    """The value of a setting for one data set, counted from 0.

    >>> of_data("::3", 1), of_data(("::3", ":"), 1)
    ('::3', ':')
    """
    return value[number] if isinstance(value, tuple) else value


def check_settings(settings: Settings, datasets: int) -> None:
    """Raises InputError for a value that no data could make sensible, or for values of another number of data sets."""
    check_options(settings)
    if settings.sg_max is not None and settings.beam_error is not None:
        raise InputError(
            found=f"--sg-max {settings.sg_max:g} and --beam-error {settings.beam_error:g} are given",
            expected="one of them, because each decides on the beams",
            do="give only one of them",
        )
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, tuple) and len(value) != datasets:
            raise InputError(
                found=f"{option_name(field)} {len(value)} times for {datasets} data sets",
                expected="one value for all data sets, or one for each in the order of their files",
                do=f"give {option_name(field)} once or {datasets} times",
            )
    for text in _each(settings.frames):
        parse_frames(text)
    for text in _each(settings.leave_out):
        parse_numbers(text or "")


def check_options(record: Any) -> None:
    """Raises InputError for a value of a dataclass of options that is outside of its choices or bounds."""
    for field in dataclasses.fields(record):
        choices, bounds, name = field.metadata["choices"], field.metadata["bounds"], option_name(field)
        for value in _each(getattr(record, field.name)):
            if value is None:
                continue
            if choices and value not in choices:
                raise InputError(found=f"{name} {value}", expected=" or ".join(choices), do=f"change {name}")
            if bounds and not (math.isfinite(value) and bounds.test(value)):
                example = f", e.g. {bounds.example}" if bounds.example else ""
                raise InputError(found=f"{name} {value}", expected=bounds.words, do=f"change {name}{example}")


def option_name(field: dataclasses.Field) -> str:
    """The option of a field on the command line, e.g. `--sg-max`."""
    return "--" + (field.metadata["name"] or field.name.replace("_", "-"))


def parse_frames(text: str) -> slice:
    """The slice a user writes as start:stop:step, in Python's meaning.

    >>> parse_frames("::3"), parse_frames("10:20")
    (slice(None, None, 3), slice(10, 20, None))
    """
    match = SLICE.match(text.strip())
    parts = [int(part) if part not in (None, "", "-") else None for part in match.groups()] if match else [0]
    if match is None or ":" not in text or (len(parts) == 3 and parts[2] == 0):
        raise InputError(found=f"--frames {text!r}", expected="start:stop:step", do="write e.g. --frames ::3")
    return slice(*parts)


def parse_numbers(text: str) -> frozenset[int]:
    """The whole numbers that a user lists, alone or as first-last.

    >>> sorted(parse_numbers("17, 40-43"))
    [17, 40, 41, 42, 43]
    """
    numbers: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = NUMBERS.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < first + MOST_NUMBERS:
            raise InputError(
                found=f"--leave-out {text!r}",
                expected="numbers of frames, e.g. 17,40-43",
                do="write the numbers that the file and the report have",
            )
        numbers |= set(range(first, last + 1))
    return frozenset(numbers)


def _each(value: Any) -> Iterable[Any]:
    return value if isinstance(value, tuple) else (value,)
