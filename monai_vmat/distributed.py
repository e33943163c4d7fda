"""Several processes that train or evaluate together (torchrun): who does what, and what they tell each other.

Without a process group everything here is what one process alone needs: it is the first, it has all cases, and means over
processes are its own values.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from monai_vmat.errors import InputError
from monai_vmat.files import read_json

Value = TypeVar("Value")

SPARE = "spare"  # key of an item that another process has as well: what is found for it does not count


def local_device() -> torch.device:
    """The device of this process: the GPU of its number on the machine; the CPU where there is no GPU.

    Raises:
        InputError: when the process was not started by torchrun.
    """
    if "LOCAL_RANK" not in os.environ:
        mend = "Start it with torchrun --standalone --nproc_per_node=N -m monai.bundle run ..., or leave the overlay out"
        raise InputError("multi_gpu overlay", "LOCAL_RANK is not set: the processes are started by torchrun", mend)
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")


def join(device: torch.device) -> None:
    """Make this process one of torchrun's: NCCL between GPUs, gloo between CPUs. Only the first goes on to log its progress.

    Raises:
        InputError: when torchrun may start processes on several machines again and shares its store with them.
    """
    gpu = device if device.type == "cuda" else None
    if gpu is not None:
        torch.cuda.set_device(gpu)
    store, rank, world_size = next(distributed.rendezvous("env://"))
    backend = "nccl" if gpu is not None else "gloo"
    distributed.init_process_group(backend, store=_fresh(store), rank=rank, world_size=world_size, device_id=gpu)
    if not is_first():
        logging.getLogger().setLevel(logging.WARNING)


def _fresh(store: distributed.Store) -> distributed.Store:
    """A store without what processes wrote that torchrun has started before these.

    PyTorch 2.13 gives restarted processes the same store, where they find addresses of the dead and wait for them. Machines
    count their restarts each for itself, so that this count tells attempts apart on one machine only.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return store
    if os.environ["GROUP_WORLD_SIZE"] != "1" and os.environ["TORCHELASTIC_MAX_RESTARTS"] != "0":
        problem = "on several machines restarted processes would wait for those before them"
        raise InputError("torchrun --max-restarts", problem, "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun")
    return distributed.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)


def processes() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if _together() else 1


def is_first() -> bool:
    """Whether this is the process that writes records and shows progress."""
    return not _together() or distributed.get_rank() == 0


def share(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """This process's part of the items, dealt out like cards: every item to one process, none twice.

    Engines do not run on nothing: where there are fewer items than processes, one without any gets the first, marked as
    :data:`SPARE`. The handlers of this package leave out what they find for it.
    """
    if not _together():
        return list(items)
    return list(items[distributed.get_rank() :: processes()]) or [{**items[0], SPARE: True}]


def gather(value: Value) -> list[Value]:
    """The values of all processes, in the order of their ranks; every process has to call it."""
    if not _together():
        return [value]
    found: list[Any] = [None] * processes()
    distributed.all_gather_object(found, value)
    return found


def gather_dealt(values: Sequence[Value]) -> list[Value]:
    """The values that all processes found for their :func:`share`, in the order of the items as they were before."""
    rounds = zip_longest(*gather(list(values)), fillvalue=None)
    return [value for value in chain.from_iterable(rounds) if value is not None]


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of the processes' tensors of this shape; every process has to call it."""
    if not _together():
        return tensor
    total = tensor.clone()
    distributed.all_reduce(total)
    return total / processes()


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace gradients by their mean over processes: those of parameters that DistributedDataParallel does not know of."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = mean_over_processes(parameter.grad)


def lost_process(error: BaseException | None) -> bool:
    """Whether ``error`` was raised, perhaps by way of others, because a process that this one talked to is gone."""
    while error is not None:
        of_gloo = "gloo/transport" in str(error)  # its errors have no type of their own
        if of_gloo or isinstance(error, distributed.DistError):
            return True
        error = error.__cause__
    return False


def job() -> str | None:
    """The id of torchrun's job, the same after its restarts; None when there is none to tell jobs apart by."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if name == "none" else name


def own_run(run_folder: str | Path) -> bool:
    """Whether the run in that folder is of this very job: torchrun (``--max-restarts``) or a cluster began it again.

    A job that was refused because of an earlier run there does not take that for its own when it is restarted. Restarts are
    not counted here, since machines whose processes ended because of another machine's do not count them.
    """
    record = Path(run_folder) / "training_config.json"
    if job() is None or not record.exists():
        return False
    return read_json(record)["sessions"][-1].get("job") == job()


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()
