"""The folder of one run: who may write there, what it was made from, and the stages that are done."""

import dataclasses
import datetime
import errno
import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from pendel.base import Array, InputError

RECORD = "run.json"
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)  # of the user's making
DIFFERENCE_MAP, DIFFERENCE_DATA = "difference.ccp4", "difference.json"
OUTPUTS = (
    *("summary.json", "posterior.nc", "refined.cif", "ensemble.cif", "reflections.csv", "report.html"),
    *(DIFFERENCE_MAP, DIFFERENCE_DATA, RECORD),
)
STAGES = ("coarse", "start", "map", "svi", "nuts", "mclmc", "basins", "smc")
LIBRARIES = ("pendel", "jax", "jaxlib", "numpyro", "blackjax", "optax", "gemmi", "arviz", "numpy", "scipy")

type Key = dict[str, Any]
type Stage = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A claimed folder. Its record and checkpoints are on disk; this object only knows where.

    Of several processes with one folder only the first one writes.
    """

    path: Path
    writes: bool = True

    def record(self) -> dict[str, Any]:
        """What `run.json` says now."""
        return json.loads((self.path / RECORD).read_text(encoding="utf-8"))

    def update(self, **entries: Any) -> None:
        """Replace entries of `run.json`."""
        self.write(RECORD, _json({**self.record(), **entries}))

    def write(self, name: str, content: bytes) -> None:
        """Write a file of the run completely or not at all; raises InputError when that is impossible."""
        if self.writes:
            write_atomically(self.path / name, content)

    def completed(self) -> tuple[str, ...]:
        """Stages whose checkpoint is complete, in order."""
        done = self.record()["stages"]
        return tuple(stage for stage in STAGES if stage in done and self._checkpoint(stage).is_file())

    def save_stage(self, stage: str, arrays: Mapping[str, Array], seconds: float) -> None:
        """Keep the arrays of a completed stage and note it in `run.json`."""
        self.write(self._checkpoint(stage).name, _packed(arrays))
        if self.writes:
            self.drop_unfinished(stage)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        stages = {**self.record()["stages"], stage: {"finished": now, "seconds": round(seconds, 2)}}
        self.update(stages=stages)

    def load_stage(self, stage: str) -> Stage:
        """The arrays of a completed stage."""
        return _loaded(self._checkpoint(stage))

    def keeper(self, stage: str) -> "Keeper":
        """Where a stage keeps what it has so far, to go on from there after an interruption."""
        return Keeper(self, self._unfinished(stage))

    def drop_unfinished(self, stage: str) -> None:
        """Delete what keepers of the stage have kept, those of further guides (svi_2, ...) too."""
        for path in self.path.glob(f"unfinished_{stage}*.npz"):
            path.unlink()

    def _checkpoint(self, stage: str) -> Path:
        return self.path / f"stage_{stage}.npz"

    def _unfinished(self, stage: str) -> Path:
        return self.path / f"unfinished_{stage}.npz"


@dataclasses.dataclass(frozen=True)
class Keeper:
    """Unfinished work of one stage in a run folder; it is deleted when the stage is done."""

    folder: RunFolder
    path: Path

    def load(self) -> Stage | None:
        """What was kept last, None where there is nothing."""
        return _loaded(self.path) if self.path.is_file() else None

    def save(self, arrays: Mapping[str, Array]) -> None:
        """Replace what is kept."""
        self.folder.write(self.path.name, _packed(arrays))


def _packed(arrays: Mapping[str, Array]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})
    return buffer.getvalue()


def _loaded(path: Path) -> Stage:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def run_key(inputs: Mapping[str, Path], settings: Mapping[str, Any]) -> Key:
    """What decides whether a folder may be resumed: content of the inputs, settings, and pendel's own source.

    Args:
        inputs: files by role, e.g. {"structure": ..., "data": ...}.
        settings: everything the user can set, as plain values.
    """
    return {
        "inputs": {role: {"path": str(path), "sha256": file_hash(path)} for role, path in inputs.items()},
        "settings": dict(settings),
        "code_sha256": code_hash(),
    }


def check_folder(path: Path, key: Key, *, force: bool) -> bool:
    """True when the run in the folder can be resumed, False when it starts anew; writes nothing.

    Raises InputError for a folder that holds something else and no `force`.
    """
    if path.exists() and not path.is_dir():
        raise InputError(found=f"--out {path} is a file", expected="a folder for the run", do="choose another --out")
    try:
        entries = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    except OSError as error:
        raise InputError(
            found=f"the folder {path} cannot be read ({error.strerror})", expected="a folder", do="choose another --out"
        ) from error
    if not entries or force:
        return False
    if RECORD not in entries:
        raise InputError(
            found=f"the folder {path} has other files ({', '.join(entries[:3])})",
            expected="a new or empty folder, or one of this same run",
            do="choose another --out, or overwrite with --force",
        )
    differences = _differences(_read_record(path), key)
    if differences:
        raise InputError(
            found=f"the folder {path} has another run (different: {', '.join(differences)})",
            expected="the same inputs, settings and code version",
            do="choose another --out, or overwrite with --force",
        )
    return True


def claim_folder(path: Path, key: Key, *, force: bool = False, seed: int) -> RunFolder:
    """Make the folder this run's own, keeping the completed stages of the same run.

    With `force` the files pendel writes are removed first, nothing else. Raises InputError as `check_folder` does, and
    when the place cannot be written; a folder that was made for nothing is then removed again.
    """
    folder = RunFolder(path)
    if check_folder(path, key, force=force):
        return folder
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name in (*OUTPUTS, *(f"stage_{stage}.npz" for stage in STAGES)):
            (path / name).unlink(missing_ok=True)
        for stage in STAGES:
            folder.drop_unfinished(stage)
        folder.write(RECORD, _json({**key, "versions": versions(), "seed": seed, "derived": {}, "stages": {}}))
    except OSError as error:
        raise _cannot_write(path, error) from error
    except InputError:
        if is_new:
            path.rmdir()
        raise
    return folder


def write_atomically(target: Path, content: bytes) -> None:
    """The file appears complete or not at all; raises InputError when it cannot be written."""

    def save(temporary: Path) -> None:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())

    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    attempt(target, lambda: (save(temporary), os.replace(temporary, target)), temporary)


def attempt(target: Path, write: Callable[[], Any], temporary: Path | None = None) -> None:
    """Run `write`; an OSError becomes an InputError about `target`, and `temporary` is removed."""
    try:
        write()
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        if temporary is not None and temporary.exists():
            temporary.unlink()


def file_hash(path: Path) -> str:
    """SHA-256 of a file; raises InputError when it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(
            found=f"the file {path} cannot be read ({error.strerror})", expected="a readable file", do="check the path"
        ) from error


def code_hash() -> str:
    """SHA-256 over pendel's own sources and tables: the version of the code as it is, edited or not."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted([*package.rglob("*.py"), *package.rglob("*.cc"), *(package / "data").glob("*.json")]):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that make the numbers."""
    found = {"python": sys.version.split()[0]}
    for library in LIBRARIES:
        found[library] = metadata.version(library)
    return found


def _differences(record: Mapping[str, Any], key: Key) -> list[str]:
    """Names of what differs between a folder's record and the key of this run."""
    if not {"inputs", "settings", "code_sha256"} <= set(record):
        return ["no complete run.json"]
    found = []
    for role in sorted(set(record["inputs"]) | set(key["inputs"])):
        old, new = record["inputs"].get(role, {}), key["inputs"].get(role, {})
        found += [role] if old.get("sha256") != new.get("sha256") else []
    plain = json.loads(json.dumps(key["settings"]))
    for name in sorted(set(record["settings"]) | set(plain)):
        found += [name] if record["settings"].get(name) != plain.get(name) else []
    return found + (["code version"] if record["code_sha256"] != key["code_sha256"] else [])


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(
        found=f"the file {path} cannot be written ({error.strerror or error})",
        expected="a writable folder with free space",
        do="choose another place or make room, then repeat the command, which continues from the last complete stage",
    )
