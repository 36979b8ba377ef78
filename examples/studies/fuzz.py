"""Spoiled files: an object or an InputError, never another exception, never more than 20 s, never more than 2 GB.

    python examples/studies/fuzz.py --cases 5000 --seed 1 [--inputs FOLDER] [--run RUN]

Structures and data of the example, and those of a folder with further ones, are changed in bytes, lines and words, then
read; so are run.json, summary.json, posterior.nc and the checkpoints of a finished run where one is given. Case n of a
seed is always the same: `--only n` shows its traceback and keeps the file as fuzz_case_n.
"""

import argparse
import collections
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

import pendel
from pendel.datasets import example
from pendel.folder.checkpoint import read_checkpoint
from pendel.folder.reader import read_run_files
from pendel.folder.run_folder import check_folder

SECONDS, GIGABYTES = 20, 2.0
BYTES_READ = 400_000  # of larger files only the beginning is changed
WORDS = (
    *("?", ".", "", "nan", "inf", "-inf", "1e400", "-1e308", "1e-320", "0", "-0.0", "1", "-1", "2", "1,5", "1e5"),
    *("99999999999999999999", "1(", "1(2", "(1)", "0x10", "'", '"', ";", "''", "data_", "loop_", "save_", "_x", "#"),
    *("x,y,z", "x/0,y,z", "-x", "h,k,l", "x1,x2,x3,x4", "P 1", "F m -3 m", "Zz", "H2O", "ÄÖ", "\u2212", "\x00"),
    *("null", "true", "[]", "{}"),
)
VALUES = tuple(
    word for word in WORDS if word and not word.startswith(("'", '"', ";", "#", "_", "data_", "loop_", "save_"))
)


class TooLong(BaseException):
    """The reader took more than its time."""


def of_bytes(content: bytes, random: np.random.Generator) -> bytes:
    """Bits flipped, or a piece left out, repeated, or replaced by noise."""
    data, start = bytearray(content), int(random.integers(len(content) + 1))
    length = int(min(random.geometric(0.02), len(content)))
    kind = random.integers(5)
    if kind == 0:
        for place in random.integers(max(len(data), 1), size=int(random.integers(1, 9))) if data else ():
            data[place] ^= 1 << int(random.integers(8))
    elif kind == 1:
        del data[start : start + length]
    elif kind == 2:
        data[start:start] = data[start : start + length]
    elif kind == 3:
        data[start : start + length] = random.bytes(length)
    else:
        del data[start:]
    return bytes(data)


def of_lines(content: bytes, random: np.random.Generator) -> bytes:
    """Lines left out, repeated, exchanged, or moved."""
    lines = content.split(b"\n")
    first, second = (int(row) for row in random.integers(len(lines), size=2))
    kind = random.integers(5)
    if kind == 0:
        del lines[first]
    elif kind == 1:
        lines.insert(second, lines[first])
    elif kind == 2:
        lines[first], lines[second] = lines[second], lines[first]
    elif kind == 3:
        del lines[min(first, second) : max(first, second)]
    else:
        lines[second:second] = lines[min(first, second) : min(first, second) + 20]
    return b"\n".join(lines)


def of_words(content: bytes, random: np.random.Generator) -> bytes:
    """One to three words replaced by any others."""
    return _replaced(content, random, r"[^ \t\n]+", WORDS)


def of_values(content: bytes, random: np.random.Generator) -> bytes:
    """One to three values replaced by others that leave a correct CIF or JSON behind more often."""
    return _replaced(content, random, r"(?<![^ \t\n])[^ _#;'\"\t\n][^ \t\n]*", VALUES)


def _replaced(content: bytes, random: np.random.Generator, pattern: str, words: tuple[str, ...]) -> bytes:
    text = content.decode("latin-1")
    for _ in range(int(random.integers(1, 4))):
        places = [match.span() for match in re.finditer(pattern, text)] or [(0, 0)]
        start, end = places[int(random.integers(len(places)))]
        other = words[int(random.integers(len(words)))]
        if random.random() < 0.3:
            size = 10.0 ** random.integers(-9, 9)
            other = f"{random.standard_normal() * size:{'.0f' if random.random() < 0.5 else '.6g'}}"
        elif random.random() < 0.2:
            other = text[slice(*places[int(random.integers(len(places)))])]
        text = text[:start] + other + text[end:]
    return text.encode("utf-8")


def read_structure(path: Path) -> None:
    """A structure with everything that is read of it."""
    pendel.read_crystal(path)


def read_data(path: Path) -> None:
    """A data file and the measurements that count."""
    pendel.select(pendel.read_pets(path), minimum_observed=1)


def read_folder(path: Path) -> None:
    """A run folder with a spoiled file in it: by the report, and as the place of a further run."""
    read_run_files(path.parent)
    check_folder(path.parent, {"inputs": {}, "settings": {}, "code_sha256": ""}, force=False)


def read_kept(path: Path) -> None:
    """A spoiled checkpoint."""
    read_checkpoint(path)


def subjects(inputs: Path | None, run: Path | None) -> list[tuple[str, bytes, Callable[[Path], None]]]:
    """Name, content and reader of all files to be spoiled."""
    files = example()
    structures, data = [files.structure], [files.data]
    if inputs is not None:
        structures += [path for path in sorted(inputs.glob("*.cif")) if not path.name.startswith("data_")]
        data += sorted(inputs.glob("*.cif_pets"))
    found = [(path.name, path.read_bytes()[:BYTES_READ], read_structure) for path in structures]
    found += [(path.name, path.read_bytes()[:BYTES_READ], read_data) for path in data]
    if run is not None:
        names = [name for name in ("run.json", "summary.json", "posterior.nc") if (run / name).is_file()]
        found += [(name, (run / name).read_bytes(), read_folder) for name in names]
        found += [(path.name, path.read_bytes(), read_kept) for path in sorted(run.glob("stage_*.npz"))[:3]]
    return found


def outcome(read: Callable[[Path], None], path: Path) -> tuple[str, str]:
    """What reading gave in a word, and of a fault where it arose."""
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
        return "object", ""
    except pendel.InputError as error:
        text = str(error)
        whole = ". Expected " in text and ". To fix: " in text and "\n" not in text
        return ("InputError", "") if whole else ("fault", f"message without its three parts: {text[:200]}")
    except TooLong:
        return "hang", f"more than {SECONDS} s"
    except Exception as error:  # noqa: BLE001  every other exception is what is looked for
        where = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in where if "pendel" in frame.filename] or where
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
        return "fault", f"{type(error).__name__} at {place}: {' '.join(str(error).split())[:120]}"
    finally:
        signal.alarm(0)


def main() -> None:
    """Run the cases, print counts and one line for each kind of fault; exit 1 with faults."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=Path, help="folder of further structures and data")
    parser.add_argument("--run", type=Path, help="folder of a finished run")
    parser.add_argument("--only", type=int, help="one case, with its traceback")
    options = parser.parse_args()

    def stop(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    files = subjects(options.inputs, options.run)
    counts: collections.Counter[str] = collections.Counter()
    faults: dict[str, list[int]] = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        for case in range(options.cases) if options.only is None else (options.only,):
            random = np.random.default_rng([options.seed, case])
            name, content, read = files[int(random.integers(len(files)))]
            change = (of_bytes, of_lines, of_words, of_values, of_values, of_values)[int(random.integers(6))]
            folder = Path(temporary)
            if read is read_folder:
                for other in ("run.json", "summary.json", "posterior.nc"):
                    shutil.copy(options.run / other, folder / other)
            path = folder / name
            path.write_bytes(change(content, random))
            if options.only is not None:
                shutil.copy(path, f"fuzz_case_{case}")
                read(path)
            found, why = outcome(read, path)
            counts[f"{read.__name__.removeprefix('read_')}: {found}"] += 1
            if found in ("fault", "hang"):
                faults.setdefault(why, []).append(case)
                if len(faults[why]) == 1:
                    print(f"case {case}, {name}, {change.__name__}: {why}", flush=True)
            path.unlink()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{options.cases} cases of seed {options.seed} in {time.monotonic() - began:.0f} s, at most {peak:.2f} GB")
    for kind, number in sorted(counts.items()):
        print(f"  {kind} {number}")
    for why, cases in faults.items():
        print(f"  {len(cases)} times {why}; cases {cases[:5]}")
    sys.exit(bool(faults) or peak > GIGABYTES)


if __name__ == "__main__":
    main()
