"""Cases in memory, with randomness that depends only on seed, epoch and case: runs can be stopped and resumed exactly."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from monai.data import CacheDataset
from torch.utils.data import DistributedSampler
from tqdm import tqdm

from monai_vmat.errors import find_input_error

logger = logging.getLogger(__name__)


class EpochSampler(DistributedSampler):
    """Indices of one epoch, shuffled by seed and epoch, each together with the epoch: ``(epoch, index)``.

    With one process it yields every case once. The trainer sets the epoch (as MONAI does for any DistributedSampler).
    """

    def __init__(self, dataset: Any, *, seed: int, shuffle: bool = True, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, index) for index in super().__iter__())


class CaseDataset(CacheDataset):
    """MONAI's CacheDataset, whose items are random by ``(seed, epoch, index)`` alone.

    The transforms up to the first random one run once per case and stay in memory: an epoch after the first reads no
    archive. A case costs 2 bytes a voxel and channel of the cropped image, 4 a voxel for the dose and 2 for the structures; the
    log says what it was. The worker process or thread that makes an item and the order in which items are made do not matter.

    Args:
        data: items of a datalist.
        transform: transforms in order.
        seed: of the random transforms.
        cache_rate: share of the cases kept in memory.
        threads: threads that fill the cache.
        progress: show a bar while filling it.

    Raises:
        InputError: when a case cannot be read.
    """

    def __init__(
        self,
        data: Sequence[dict],
        transform: Sequence[Callable] | Callable,
        *,
        seed: int = 0,
        cache_rate: float = 1.0,
        threads: int = 1,
        progress: bool = True,
    ) -> None:
        self.seed = seed
        with _plain_input_errors():
            super().__init__(data, transform, cache_rate=cache_rate, num_workers=threads, progress=progress, copy_cache=False)
        if self.cache_num:
            megabytes = sum(v.nbytes for item in self._cache for v in item.values() if hasattr(v, "nbytes")) / 1e6
            logger.info(f"{self.cache_num} of {len(self)} cases in memory, {megabytes / self.cache_num:.1f} MB each")

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list:
        # MONAI's thread pool is left behind running when a case cannot be read, and brings the process down while it ends.
        wanted = range(self.cache_num) if indices is None else indices
        pool = ThreadPoolExecutor(self.num_workers or 1)
        try:
            items = pool.map(self._load_cache_item, wanted)
            return list(tqdm(items, total=len(wanted), desc="Reading cases", disable=not (self.progress and wanted)))
        finally:
            pool.shutdown(cancel_futures=True)

    def __getitem__(self, index):
        epoch = 0
        if isinstance(index, tuple):
            epoch, index = index
        # SeedSequence mixes the three numbers into one seed without collisions between neighbours.
        state = np.random.SeedSequence((self.seed, epoch, index)).generate_state(1)
        self.transform.set_random_state(seed=int(state[0]))
        with _plain_input_errors():
            return super().__getitem__(index)


class _plain_input_errors:
    """Give back the InputError that MONAI wraps, so that a message meant for a person arrives as it is."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> None:
        cause = find_input_error(error)
        if cause is not None and cause is not error:
            raise cause from None
