"""Keys of the stages of a run: a stage may be taken from the folder when what it depends on is the same."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pendel.failures import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """What the result of a stage depends on, beside the code and the stages before it."""

    name: str
    inputs: tuple[str, ...] = ()  # roles; "data" stands for all data files
    settings: tuple[str, ...] = ()
    after: tuple[str, ...] = ()  # stages whose result it takes, where a run has them


def stage_keys(
    stages: Sequence[Stage], inputs: Mapping[str, str], settings: Mapping[str, Any], code: str
) -> dict[str, str]:
    """The key of every stage, in the order of the stages: SHA-256 of all that its result depends on.

    Args:
        stages: those that the run has.
        inputs: SHA-256 of the files by role: structure, data, data_2, ..., model.
        settings: value of every setting.
        code: SHA-256 of pendel itself.
    """
    keys: dict[str, str] = {}
    for stage in stages:
        files = {role: digest for role, digest in inputs.items() if role.partition("_")[0] in stage.inputs}
        content = {
            "stage": stage.name,
            "code": code,
            "inputs": files,
            "settings": {name: settings[name] for name in stage.settings},
            "after": [keys[name] for name in stage.after if name in keys],
        }
        keys[stage.name] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return keys


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
