"""The folder of one run: who may write there, what it was made from, and the stages that are done."""

import dataclasses
import datetime
import json
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pendel.base import Array, InputError
from pendel.files.whole_file import cannot_write, write_bytes
from pendel.folder.checkpoint import file_content, packed, read_checkpoint
from pendel.folder.stage_keys import code_hash, file_hash

RECORD = "run.json"
LAYOUT = 2  # of run.json and the checkpoints; 0.1.0 had none
DIFFERENCE_MAP, DIFFERENCE_DATA = "difference.ccp4", "difference.json"
DIFFERENCE = (DIFFERENCE_MAP, DIFFERENCE_DATA)
OUTPUTS = (
    *("summary.json", "posterior.nc", "refined.cif", "ensemble.cif", "reflections.csv", "report.html"),
    *("parameters.csv", *DIFFERENCE, RECORD),
)
STAGE_NAMES = ("coarse", "start", "map", "svi", "nuts", "mclmc", "basins", "smc")
CHECKPOINTS = tuple(name for stage in STAGE_NAMES for name in (f"stage_{stage}.npz", f"unfinished_{stage}*.npz"))
LIBRARIES = ("pendel", "jax", "jaxlib", "numpyro", "blackjax", "optax", "gemmi", "arviz", "numpy", "scipy")

type Key = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A claimed folder. Its record and checkpoints are on disk; this object knows where, and the keys of the stages.

    Of several processes with one folder only the first one writes.
    """

    path: Path
    writes: bool = True
    keys: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """What `run.json` says now."""
        return read_record(self.path)

    def update(self, **entries: Any) -> None:
        """Replace entries of `run.json`."""
        self.write(RECORD, _json({**self.record(), **entries}))

    def write(self, name: str, content: bytes) -> None:
        """Write a file of the run completely or not at all; raises InputError when that is impossible."""
        if self.writes:
            write_bytes(self.path / name, content)

    def remove(self, *patterns: str) -> None:
        """Delete files of the run."""
        if self.writes:
            for path in (path for pattern in patterns for path in self.path.glob(pattern)):
                path.unlink()

    def with_keys(self, keys: Mapping[str, str]) -> "RunFolder":
        """The folder for stages with these keys, which `run.json` tells from now on."""
        self.update(keys=dict(keys))
        return dataclasses.replace(self, keys=dict(keys))

    def completed(self) -> tuple[str, ...]:
        """Stages whose result is there and depends on the same as the run does, in order."""
        record = self.record()
        keys, stages = self.keys or record.get("keys", {}), record["stages"]
        return tuple(
            stage
            for stage, key in keys.items()
            if stages.get(stage, {}).get("key") == key and self._checkpoint(stage).is_file()
        )

    def save_stage(self, stage: str, value: Any, *, seconds: float, left_out: tuple[type, ...] = ()) -> None:
        """Keep the result of a completed stage, see `packed`, and note it in `run.json` under its key."""
        self.write(self._checkpoint(stage).name, file_content(packed(value, left_out=left_out)))
        self.remove(f"unfinished_{stage}*.npz")  # those of further guides (svi_2, ...) too
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        entry = {"key": self.keys[stage], "finished": now, "seconds": round(seconds, 2)}
        self.update(stages={**self.record()["stages"], stage: entry})

    def load_stage(self, stage: str, *, classes: tuple[type, ...] = (), given: Mapping[type, Any] | None = None) -> Any:
        """The result of a completed stage, see `unpacked`."""
        return read_checkpoint(self._checkpoint(stage), classes=classes, given=given)

    def keeper(self, stage: str, end: str = "") -> "Keeper":
        """Where a stage keeps what it has so far, to go on from there after an interruption.

        end: of the name, where a stage keeps several things.
        """
        return Keeper(self, self.path / f"unfinished_{stage}{end}.npz", self.keys[stage])

    def decided(self, name: str, key: str, make: Callable[[], Any]) -> Any:
        """A choice that depends on the machine, as it was made where the work with this key began."""
        known = self.record().get("decided", {})
        if known.get(name, {}).get("key") == key:
            return known[name]["value"]
        value = make()
        self.update(decided={**known, name: {"key": key, "value": value}})
        return value

    def _checkpoint(self, stage: str) -> Path:
        return self.path / f"stage_{stage}.npz"


@dataclasses.dataclass(frozen=True)
class Keeper:
    """Unfinished work of one stage in a run folder; it is deleted when the stage is done."""

    folder: RunFolder
    path: Path
    key: str

    def load(self) -> dict[str, Array] | None:
        """What was kept last under the same key, None where there is nothing."""
        if not self.path.is_file():
            return None
        kept = read_checkpoint(self.path)
        return kept["arrays"] if kept["key"] == self.key else None

    def save(self, arrays: Mapping[str, Array]) -> None:
        """Replace what is kept."""
        self.folder.write(self.path.name, file_content(packed({"key": self.key, "arrays": dict(arrays)})))


def run_key(inputs: Mapping[str, Path], settings: Mapping[str, Any]) -> Key:
    """What a run is made from: content of the inputs, settings, and pendel's own source.

    Args:
        inputs: files by role, e.g. {"structure": ..., "data": ..., "model": ...}.
        settings: everything the user can set, as plain values.
    """
    return {
        "inputs": {role: {"path": str(path), "sha256": file_hash(path)} for role, path in inputs.items()},
        "settings": json.loads(json.dumps(dict(settings))),
        "code_sha256": code_hash(),
    }


def check_folder(path: Path, key: Key, *, force: bool) -> bool:
    """True when the folder holds a run of the same structure and data, False when it starts anew; writes nothing.

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
    record = _read_record(path)
    if record and record.get("layout") != LAYOUT:
        raise InputError(
            found=f"the folder {path} has a run of pendel 0.1.0, which kept its stages in another way",
            expected="a run of this version",
            do="choose another --out, or overwrite with --force",
        )
    differences = _differences(record, key)
    if differences:
        raise InputError(
            found=f"the folder {path} has another run (different: {', '.join(differences)})",
            expected="the same structure, data and code version",
            do="choose another --out, or overwrite with --force",
        )
    return True


def claim_folder(
    path: Path, key: Key, *, force: bool = False, seed: int, defaults: Mapping[str, Any] | None = None
) -> RunFolder:
    """Make the folder this run's own; stages that are there stay, and each is used where its key is the same.

    With `force` the files pendel writes are removed first, nothing else. Raises InputError as `check_folder` does, and
    when the place cannot be written; a folder that was made for nothing is then removed again.

    defaults: of the settings, which `run.json` keeps so that the report can tell them from what the user chose.
    """
    folder = RunFolder(path)
    about = {**key, "layout": LAYOUT, "defaults": dict(defaults or {}), "versions": versions(), "seed": seed}
    if check_folder(path, key, force=force):
        folder.update(**about)
        return folder
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        folder.remove(*OUTPUTS, *CHECKPOINTS)
        folder.write(RECORD, _json({**about, "derived": {}, "stages": {}}))
    except OSError as error:
        raise cannot_write(path, error) from error
    except InputError:
        if is_new:
            path.rmdir()
        raise
    return folder


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that make the numbers."""
    found = {"python": sys.version.split()[0]}
    for library in LIBRARIES:
        found[library] = metadata.version(library)
    return found


def _differences(record: Mapping[str, Any], key: Key) -> list[str]:
    """Names of what makes a folder's record that of another run: its structure, its data, or the code."""
    if not {"inputs", "settings", "code_sha256", "stages"} <= set(record):
        return ["no complete run.json"]
    inputs = record["inputs"]
    if not isinstance(inputs, Mapping) or not all(isinstance(entry, Mapping) for entry in inputs.values()):
        return ["no complete run.json"]
    roles = sorted({*record["inputs"], *key["inputs"]} - {"model"})
    found = [r for r in roles if record["inputs"].get(r, {}).get("sha256") != key["inputs"].get(r, {}).get("sha256")]
    return found + (["code version"] if record["code_sha256"] != key["code_sha256"] else [])


def read_record(path: Path) -> dict[str, Any]:
    """What `run.json` in a folder says; raises InputError when it is damaged."""
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        record = error
    if not isinstance(record, dict):
        raise InputError(
            found=f"{path / RECORD} cannot be read ({record if isinstance(record, Exception) else 'no JSON object'})",
            expected="the file as pendel wrote it",
            do="repeat the run with --force",
        )
    return record


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
