"""Spoiled files: an object or an InputError, never another exception, never more than 20 s, never more than 2 GB.

    python examples/studies/fuzz.py --cases 5000 --seed 1 [--inputs FOLDER] [--run RUN]

Structures and data of the example, and those of a folder with further ones, are changed in bytes, lines and words, then
read; so are run.json, summary.json, posterior.nc and the checkpoints of a finished run where one is given. A process of
its own reads them under a limit of memory; where it hangs or dies, the next one goes on with the next case. Case n of a
seed is always the same: `--only n` shows its traceback and keeps the file as fuzz_case_n.
"""

import argparse
import collections
import multiprocessing
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

import pendel
from pendel.datasets import example
from pendel.files.jana import extract_pets
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


def read_embedded(path: Path) -> None:
    """Measurements inside a published CIF."""
    extract_pets(path, path.with_name("extracted.cif_pets"))


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
        found = sorted(path for path in inputs.iterdir() if path.suffix in (".cif", ".res", ".ins", ".cif_pets"))
        structures += [path for path in found if path.suffix != ".cif_pets" and not path.name.startswith("data_")]
        data += [path for path in found if path not in structures]
    found = [(path.name, path.read_bytes()[:BYTES_READ], read_structure) for path in structures]
    found += [(name, content, read_embedded) for name, content, _ in found if b"_Jana_m90_file" in content]
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


def cases(options: argparse.Namespace, first: int, tell: Connection) -> None:
    """Read the spoiled files from case `first` on; tell of each case its number, file, reader, change and outcome."""

    def stop(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    limit = int(GIGABYTES * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    files = subjects(options.inputs, options.run)
    with tempfile.TemporaryDirectory() as temporary:
        for case in range(first, options.cases) if options.only is None else (options.only,):
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
            about = (case, name, read.__name__.removeprefix("read_"), change.__name__)
            tell.send((*about, "begun", ""))
            tell.send((*about, *outcome(read, path)))
            path.unlink()


def outcomes(options: argparse.Namespace) -> Iterator[tuple[int, str, str, str, str, str]]:
    """What every case gave, whatever happens to the process that reads it."""
    first, about = 0, (0, "", "", "")
    while first < options.cases:
        hear, tell = multiprocessing.Pipe(duplex=False)
        worker = multiprocessing.Process(target=cases, args=(options, first, tell))
        worker.start()
        tell.close()
        why = "died"
        try:
            while hear.poll(3 * SECONDS):  # the worker stops itself, unless it is in a loop of a library
                *about, found, reason = hear.recv()
                if found != "begun":
                    first = about[0] + 1
                    yield (*about, found, reason)
            why = "hang"
        except EOFError:
            if first == options.cases:
                worker.join()
                return
        worker.kill()
        worker.join()
        yield (*about, "fault" if why == "died" else why, f"the process {why}, exit code {worker.exitcode}")
        first = about[0] + 1


def main() -> None:
    """Run the cases, print counts and one line for each kind of fault; exit 1 with faults."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=Path, help="folder of further structures and data")
    parser.add_argument("--run", type=Path, help="folder of a finished run")
    parser.add_argument("--only", type=int, help="one case, with its traceback")
    options = parser.parse_args()
    if options.only is not None:
        cases(options, 0, multiprocessing.Pipe(duplex=False)[1])
        return
    counts: collections.Counter[str] = collections.Counter()
    faults: dict[str, list[int]] = {}
    began = time.monotonic()
    for case, name, read, change, found, why in outcomes(options):
        counts[f"{read}: {found}"] += 1
        if found in ("fault", "hang"):
            faults.setdefault(why, []).append(case)
            if len(faults[why]) == 1:
                print(f"case {case}, {name}, {change}: {why}", flush=True)
        if case % 1000 == 999:
            print(f"{case + 1} cases, {time.monotonic() - began:.0f} s, {dict(counts)}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"{options.cases} cases of seed {options.seed} in {time.monotonic() - began:.0f} s, at most {peak:.2f} GB")
    for kind, number in sorted(counts.items()):
        print(f"  {kind} {number}")
    for why, numbers in faults.items():
        print(f"  {len(numbers)} times {why}; cases {numbers[:5]}")
    sys.exit(bool(faults) or peak > GIGABYTES)


if __name__ == "__main__":
    main()
