"""Data sets that can be fetched by name: what they are, where they come from, and their checksums.

The registry is `data/datasets.json`. A file is taken from the package or downloaded, and it is kept only when its
SHA-256 is the recorded one.
"""

import dataclasses
import json
from importlib import resources
from pathlib import Path
from typing import Any

import pooch

from pendel.failures import InputError
from pendel.files.whole_file import DISK_ERRORS, cannot_write, write_bytes

REGISTRY = "datasets.json"
ELSEWHERE = "choose another folder with --to"
TIMEOUT = 30.0  # s, without an answer or a further byte


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file: `url` says where it is downloaded from, `embedded` where it lies in the package's data folder."""

    name: str
    sha256: str
    url: str | None = None
    embedded: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSet:
    """One measured or simulated crystal: start structure and measurements."""

    name: str
    description: str
    source: str
    licence: str
    doi: str | None
    files: tuple[DataFile, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fetched:
    """A file at its place; `is_new` is False when it was there already."""

    path: Path
    is_new: bool


def published_datasets() -> dict[str, DataSet]:
    """The registry, by name; the embedded example first."""
    text = (_package_data() / REGISTRY).read_text(encoding="utf-8")
    return {name: _dataset(name, entry) for name, entry in json.loads(text).items()}


def find_dataset(name: str, datasets: dict[str, DataSet]) -> DataSet:
    """The data set of that name; raises InputError, which lists the known names."""
    if name not in datasets:
        raise InputError(
            found=f"unknown data set {name!r}",
            expected=f"one of {', '.join(datasets)}",
            do="choose one of the data sets that `pendel data list` describes",
        )
    return datasets[name]


def fetch(dataset: DataSet, folder: Path) -> tuple[Fetched, ...]:
    """All files of a data set in a folder, which is made; files that are there and right are left alone.

    Raises InputError for a folder that cannot be written, a file of the same name with other content (it is never
    replaced), no answer from the server, and a download whose SHA-256 is not the recorded one (it is not kept).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error, ELSEWHERE) from error
    return tuple(_fetch_file(dataset, file, folder / file.name) for file in dataset.files)


def _fetch_file(dataset: DataSet, file: DataFile, target: Path) -> Fetched:
    if target.exists():
        if pooch.file_hash(str(target), alg="sha256") == file.sha256:
            return Fetched(path=target, is_new=False)
        raise InputError(
            found=f"the file {target} is not that of the data set {dataset.name}",
            expected=f"SHA-256 {file.sha256}",
            do="move the file away, or choose another folder with --to",
        )
    if file.url is None:
        write_bytes(target, (_package_data() / str(file.embedded)).read_bytes())
    else:
        _download(dataset, file, target)
    return Fetched(path=target, is_new=True)


def _download(dataset: DataSet, file: DataFile, target: Path) -> None:
    """The file at its place; pooch writes it beside its place first and moves it there when the hash is right."""
    pooch.get_logger().setLevel("WARNING")
    downloader: Any = pooch.HTTPDownloader(timeout=TIMEOUT)  # pooch annotates the argument without its own classes
    try:
        pooch.retrieve(
            url=str(file.url),
            known_hash=f"sha256:{file.sha256}",
            fname=target.name,
            path=target.parent,
            downloader=downloader,
        )
    except ValueError as error:
        raise InputError(
            found=f"{file.url} has another SHA-256 than the recorded one",
            expected=file.sha256,
            do="try again later, because the answer was incomplete or the file has changed (nothing is written)",
        ) from error
    except OSError as error:  # those of the connection are OSErrors, too
        if error.errno in DISK_ERRORS:
            raise cannot_write(target, error, ELSEWHERE) from error
        by_hand = f"https://doi.org/{dataset.doi}" if dataset.doi else file.url
        raise InputError(
            found=f"no answer from {file.url} ({_reason(error)})",
            expected="a connection to that server",
            do=f"connect to the network and repeat, or put {file.name} from {by_hand} into {target.parent} by hand",
        ) from error


def _reason(error: OSError) -> str:
    """What went wrong in a few words: the innermost cause says it, the outer ones repeat addresses."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"HTTP status {status}"
    cause: BaseException = error
    while cause.__context__ is not None:
        cause = cause.__context__
    return getattr(cause, "strerror", None) or type(cause).__name__


def _dataset(name: str, entry: dict[str, Any]) -> DataSet:
    files = tuple(DataFile(**file) for file in entry["files"])
    return DataSet(name=name, **{**entry, "files": files})


def _package_data() -> Path:
    return Path(str(resources.files("pendel"))) / "data"


@dataclasses.dataclass(frozen=True)
class Example:
    """Files of the embedded example; the truth stands in the data file and is not read by a refinement."""

    structure: Path
    data: Path


def example() -> Example:
    """The embedded example: displaced start structure and simulated measurements of alpha-quartz."""
    folder = Path(str(resources.files("pendel"))) / "data" / "example"
    return Example(structure=folder / "quartz_start.cif", data=folder / "quartz_example.cif_pets")
