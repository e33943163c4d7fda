"""Order, errors and interrupted work are covered with the scripts that use it; here what belongs to it alone."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monai_vmat.errors import InputError
from monai_vmat.parallel import map_in_processes
from monai_vmat.protocol import load_protocol


def test_results_come_in_the_order_of_the_items():
    assert map_in_processes(abs, [-3, 2, -1, 0], 2, "number") == [3, 2, 1, 0]


def test_nothing_to_do():
    assert map_in_processes(abs, [], 2, "number") == []


def test_an_input_error_crosses_the_process_border_whole():
    with pytest.raises(InputError, match="nowhere") as caught:
        map_in_processes(load_protocol, ["nowhere"], 1, "file")
    assert caught.value.where == "protocol 'nowhere'"


def test_a_killed_worker_is_told():
    with pytest.raises(InputError, match="killed"):
        map_in_processes(os._exit, [1], 1, "file")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_of_a_killed_process_end(tmp_path):
    (tmp_path / "many.py").write_text(
        "import time\n"
        "from monai_vmat.parallel import map_in_processes\n"
        "if __name__ == '__main__':\n"
        "    map_in_processes(time.sleep, [0.1] * 10000, 2, 'nap')\n"
    )
    process = subprocess.Popen([sys.executable, tmp_path / "many.py"], stderr=subprocess.PIPE, start_new_session=True)
    shown = b""
    while not re.search(rb" [1-9]\d*/10000", shown):  # the bar: workers have done something
        assert (more := process.stderr.read1()), shown
        shown += more
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while alive := session(process.pid):
        assert time.monotonic() < deadline, alive
        time.sleep(0.02)


def session(leader: int) -> set[int]:
    """The living processes of a session, zombies left out."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.add(int(folder.name))
    return found
