"""Order, errors and interrupted work are covered with the scripts that use it; here what belongs to it alone."""

import os

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
