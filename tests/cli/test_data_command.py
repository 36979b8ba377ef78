"""`pendel data`: the registry, and downloads from a server on this machine."""

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pendel
from pendel import datasets as published
from pendel.base import InputError
from pendel.cli import data as cli_data
from pendel.datasets import DataFile, DataSet, example, fetch, published_datasets

CONTENT = {"/start.cif": b"data_start\n", "/data.cif_pets": bytes(range(256)) * 400}


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """No proxy stands between these tests and their own server."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Address of a server of CONTENT, and the paths it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = CONTENT.get(self.path)
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def dataset(address: str, **changed: str) -> DataSet:
    """A data set of two files on the server; `changed`: other SHA-256 by file name without its ending."""
    files = tuple(
        DataFile(
            name=path[1:],
            sha256=changed.get(path[1:].partition(".")[0], hashlib.sha256(body).hexdigest()),
            url=f"{address}{path}",
        )
        for path, body in CONTENT.items()
    )
    return DataSet(name="tiny", description="two files", source="a test", licence="MIT", doi="10.1/tiny", files=files)


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `pendel data ...`."""
    result = CliRunner().invoke(cli_data.data_app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_download(server, tmp_path: Path):
    address, asked = server
    fetched = fetch(dataset(address), tmp_path / "new" / "folder")
    assert [file.is_new for file in fetched] == [True, True]
    assert {f"/{file.path.name}": file.path.read_bytes() for file in fetched} == CONTENT
    assert asked == list(CONTENT)
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["data.cif_pets", "start.cif"]


def test_good_files_are_not_downloaded_again(server, tmp_path: Path):
    address, asked = server
    (tmp_path / "start.cif").write_bytes(CONTENT["/start.cif"])
    fetched = fetch(dataset(address), tmp_path)
    assert [file.is_new for file in fetched] == [False, True]
    assert asked == ["/data.cif_pets"]
    fetch(dataset(address), tmp_path)
    assert asked == ["/data.cif_pets"]


def test_a_changed_file_of_the_user_is_not_replaced(server, tmp_path: Path):
    address, asked = server
    (tmp_path / "start.cif").write_text("my own start\n")
    with pytest.raises(InputError, match=r"is not that of the data set.*--to"):
        fetch(dataset(address), tmp_path)
    assert (tmp_path / "start.cif").read_text() == "my own start\n"
    assert asked == []


def test_wrong_hash_is_refused_and_nothing_kept(server, tmp_path: Path):
    address, _ = server
    wrong = "0" * 64
    with pytest.raises(InputError) as refusal:
        fetch(dataset(address, data=wrong), tmp_path)
    assert f"{address}/data.cif_pets has another SHA-256" in str(refusal.value)
    assert wrong in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["start.cif"]  # the one that was right


def test_missing_file_on_the_server(server, tmp_path: Path):
    address, _ = server
    absent = DataFile(name="absent.cif", sha256="0" * 64, url=f"{address}/absent.cif")
    wanted = DataSet(name="tiny", description="", source="", licence="", doi=None, files=(absent,))
    with pytest.raises(InputError, match="HTTP status 404"):
        fetch(wanted, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_network_says_what_to_do(tmp_path: Path):
    with socket.socket() as closed:  # bound and not listening: whoever connects is refused
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(InputError) as refusal:
            fetch(dataset(address), tmp_path)
    message = str(refusal.value)
    assert f"No answer from {address}/start.cif (Connection refused)" in message
    assert "connect to the network" in message
    assert f"put start.cif from https://doi.org/10.1/tiny into {tmp_path} by hand" in message
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written.*--to"):
        fetch(published_datasets()["example"], tmp_path / "file" / "folder")


def test_command_downloads_into_a_folder_of_that_name(server, tmp_path: Path, monkeypatch):
    address, _ = server
    monkeypatch.setattr(published, "published_datasets", lambda: {"tiny": dataset(address)})
    monkeypatch.chdir(tmp_path)
    code, told, errors = run("fetch", "tiny")
    assert (code, errors) == (0, "")
    assert told.splitlines()[:2] == ["tiny/start.cif (new)", "tiny/data.cif_pets (new)"]
    assert "licence: MIT" in told
    assert run("fetch", "tiny")[1].splitlines()[0] == "tiny/start.cif (was there)"


def test_unknown_name_lists_the_known_ones(tmp_path: Path):
    code, told, errors = run("fetch", "quarz", "--to", tmp_path / "quarz")
    assert (code, told) == (2, "")
    assert errors.startswith("pendel: Unknown data set 'quarz'. Expected one of example, quartz, ")
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "quarz").exists()


def test_example_comes_from_the_package_and_can_be_read(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(published.pooch, "retrieve", lambda **_: pytest.fail("the example needs no network"))
    code, told, _ = run("fetch", "example", "--to", tmp_path)
    assert code == 0
    assert told.count("(new)") == 3
    assert (tmp_path / "quartz_start.cif").read_bytes() == example().structure.read_bytes()
    crystal = pendel.read_crystal(tmp_path / "quartz_start.cif")
    assert len(pendel.read_pets(tmp_path / "quartz_example.cif_pets", structure_cell=crystal.cell).frame_id) == 30


def test_list_describes_every_data_set():
    code, told, errors = run("list")
    assert (code, errors) == (0, "")
    for name, entry in published_datasets().items():
        assert re.search(rf"^{name}: ", told, flags=re.MULTILINE)
        assert entry.licence in told
        assert all(file.name in told for file in entry.files)


def test_registry_is_complete():
    registry = published_datasets()
    assert next(iter(registry)) == "example"
    for entry in registry.values():
        assert entry.description
        assert entry.source
        assert entry.licence
        assert len({file.name for file in entry.files}) == len(entry.files)
        for file in entry.files:
            assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
            assert Path(file.name).name == file.name
            assert (file.url is None) != (file.embedded is None)
            # A commit's hash in the address: what stands there can vanish, but not change.
            assert file.url is None or re.fullmatch(r"https://\S+/[0-9a-f]{40}/\S+/" + re.escape(file.name), file.url)


def test_checksums_are_those_of_the_published_files(shared_data: Path):
    here = {hashlib.sha256(path.read_bytes()).hexdigest(): path.name for path in shared_data.rglob("*.cif*")}
    for name, entry in published_datasets().items():
        for file in entry.files if name != "example" else ():
            assert here[file.sha256] == file.name
