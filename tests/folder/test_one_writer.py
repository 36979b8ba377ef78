"""Two runs in one folder: refused while the first lives, not after it was killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pendel.base import InputError
from pendel.folder.one_writer import one_writer

HOLDER = """
import sys, time
from pathlib import Path
from pendel.folder.one_writer import one_writer
with one_writer(Path(sys.argv[1])):
    Path(sys.argv[1], "run.json").write_text("{}")
    Path(sys.argv[1], ".posterior.nc.1.tmp").write_text("half")
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_a_second_run_is_refused_until_the_first_is_dead(tmp_path: Path):
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "locked\n"
        with (
            pytest.raises(InputError, match=r"(?i)another run is at work.*\. Expected .*\. To fix: "),
            one_writer(folder),
        ):
            pass
        assert (folder / ".posterior.nc.1.tmp").is_file()  # of the run that lives
        holder.send_signal(signal.SIGKILL)
    (folder / ".own.tmp").write_text("not of pendel")
    with one_writer(folder):
        assert sorted(path.name for path in folder.iterdir()) == [".own.tmp", "run.json"]


def test_a_folder_that_was_made_for_nothing_goes(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), one_writer(tmp_path / "run"):
        _ = 1 / 0
    assert not (tmp_path / "run").exists()
    with one_writer(tmp_path):
        pass
    assert tmp_path.is_dir()
