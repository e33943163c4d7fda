"""The gamma index of two 3D doses (Low et al. 1998, doi:10.1118/1.598248).

    ``gamma(r) = min over x of sqrt( |x - r|^2 / distance^2 + (D_eval(x) - D_ref(r))^2 / dose^2 )``

for every voxel r of the reference; x runs over the evaluation dose, interpolated trilinearly. Conventions, all adjustable:

* 3 % / 3 mm. The percentage is of the *normalisation*: the reference's maximum, or a dose in Gy such as the prescription
  (global gamma); or of each reference voxel's own dose (``local=True``).
* Voxels count where the reference reaches 10 % of the normalisation, also for local gamma; elsewhere gamma is NaN. It is NaN,
  too, where the evaluation grid is out of reach (further than ``max_gamma`` times the distance), and where a local
  criterion would be zero.
* gamma is cut off at ``max_gamma`` = 2. A voxel passes where gamma < 1, strictly, as in pymedphys.
* Full 3D at full resolution. Swapping reference and evaluation changes the result.

Modes:

* ``exact``: the minimum over all points x, to ``tolerance``: true <= gamma <= true + tolerance. Voxels that this leaves within
  the tolerance above 1 are searched on, so that pass or fail is as in ``pass_rate``. The proof stands in
  :mod:`monai_vmat.metrics.gamma_exact`.
* ``pass_rate``: decides gamma < 1 only, the fastest: 0 for a pass and 1 for a fail. Exact but for voxels whose gamma lies
  between 1 - 1e-4 and 1, which may be called a fail.
* ``sampled``: the minimum over the very points that ``pymedphys.gamma`` searches, for results that equal pymedphys's: see
  :mod:`monai_vmat.metrics.gamma_sampled`. Sampling overestimates gamma: at fraction 10 the pass rate comes out lower by up to
  0.4 points (1.0 for local gamma).
* ``pymedphys``: pymedphys itself, where it is installed; some hundred times slower.

Results do not depend on the number of threads (``NUMBA_NUM_THREADS``). The first call compiles for some seconds and keeps the
result beside the package, or in ``NUMBA_CACHE_DIR``.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_vmat.errors import InputError
from monai_vmat.metrics import gamma_exact, gamma_sampled
from monai_vmat.metrics.gamma_grid import Grid, relate_grids

MODES = ("exact", "pass_rate", "sampled", "pymedphys")
_PASS_TOLERANCE = 1e-4
_BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))  # rounding to float32 must not turn a pass into a fail
_THREADS = threading.Lock()  # not every threading layer of numba may be entered from several threads at once


@dataclass(frozen=True)
class GammaResult:
    """Gamma for one pair of criteria."""

    dose_percent: float
    distance_mm: float
    gamma: np.ndarray
    """float32 (X, Y, Z), NaN where not evaluated; 0 and 1 for pass and fail in mode ``pass_rate``."""
    pass_rate_percent: float | None
    """Part of the evaluated voxels with gamma < 1; None where there are none."""
    region_pass_rates_percent: Mapping[str, float | None]
    """The same within each region."""
    convention: str
    """What the numbers mean, to be shown beside them."""

    @property
    def evaluated(self) -> np.ndarray:
        """bool (X, Y, Z): where gamma is known."""
        return ~np.isnan(self.gamma)


@dataclass(frozen=True)
class _Task:
    """Checked input: two doses, the grids, the reference voxels that count, and how to compare them."""

    reference: np.ndarray
    evaluation: np.ndarray
    grid: Grid
    voxels: np.ndarray
    norm: float
    mode: str
    local: bool
    cutoff_percent: float
    max_gamma: float
    tolerance: float
    interp_fraction: float


def gamma_analysis(
    reference_gy: Any,
    evaluation_gy: Any,
    spacing_mm: Sequence[float],
    *,
    criteria: Sequence[tuple[float, float]] = ((3.0, 3.0),),
    regions: Mapping[str, Any] | None = None,
    mode: str = "exact",
    local: bool = False,
    cutoff_percent: float = 10.0,
    normalisation_gy: float | None = None,
    max_gamma: float = 2.0,
    tolerance: float = 1e-2,
    interp_fraction: float = 10,
    origin_mm: Sequence[float] = (0.0, 0.0, 0.0),
    evaluation_spacing_mm: Sequence[float] | None = None,
    evaluation_origin_mm: Sequence[float] | None = None,
) -> tuple[GammaResult, ...]:
    """Compare an evaluation (predicted) with a reference dose by one or several pairs of criteria.

    Args:
        reference_gy, evaluation_gy: (X, Y, Z) arrays or tensors, in Gy (or any one unit), finite, two voxels or more an axis.
        spacing_mm: voxel size along X, Y, Z of the reference, and of the evaluation unless that has its own.
        criteria: pairs of dose in percent and distance in mm.
        regions: boolean (X, Y, Z) masks on the reference grid, by name: their pass rates are taken from the full map.
        mode: see the module.
        local: percent of each reference voxel's dose instead of the normalisation.
        cutoff_percent: of the normalisation; reference voxels below are left out.
        normalisation_gy: what percentages refer to; the reference's maximum when not given.
        max_gamma: where gamma is cut off, 1 or more; bounds the search.
        tolerance: of mode ``exact``, 1e-5 to 0.5.
        interp_fraction: of modes ``sampled`` and ``pymedphys``: points per distance criterion.
        origin_mm: centre of the reference's voxel (0, 0, 0).
        evaluation_spacing_mm, evaluation_origin_mm: of the evaluation, where they differ from the reference's. Mode ``sampled``
            loses most of its speed where spacings differ.

    Returns:
        a result for each pair of criteria, in their order.

    Raises:
        InputError: for doses, spacings, criteria or options that make no sense.
        GammaNotConverged: when mode ``exact`` or ``pass_rate`` cannot prove its tolerance.

    Example:
        >>> dose = np.full((8, 8, 8), 50.0, np.float32)
        >>> wide, narrow = gamma_analysis(dose, dose + 1, (3, 3, 3), criteria=[(3, 3), (1, 1)])
        >>> wide.pass_rate_percent, narrow.pass_rate_percent
        (100.0, 0.0)
    """
    options = {
        "dose_percent": [c[0] for c in criteria],
        "distance_mm": [c[1] for c in criteria],
        "normalisation_gy": normalisation_gy,
        "interp_fraction": interp_fraction,
    }
    for name, value in options.items():
        for number in value if isinstance(value, list) else [value]:
            _check(name, number, number is None or (np.isfinite(number) and number > 0), "a positive number")
    _check("criteria", criteria, len(criteria) > 0, "at least one pair of dose in percent and distance in mm")
    _check("mode", mode, mode in MODES, f"one of {', '.join(MODES)}")
    _check("cutoff_percent", cutoff_percent, 0 <= cutoff_percent <= 100, "a number from 0 to 100")
    _check("max_gamma", max_gamma, 1 <= max_gamma < np.inf, "a finite number, 1 or more")
    _check("tolerance", tolerance, 1e-5 <= tolerance <= 0.5, "a number from 1e-5 to 0.5")
    reference, evaluation = _dose("reference_gy", reference_gy), _dose("evaluation_gy", evaluation_gy)
    spacing = _triple("spacing_mm", spacing_mm, positive=True)
    origin = _triple("origin_mm", origin_mm)
    own_spacing = spacing if evaluation_spacing_mm is None else _triple("evaluation_spacing_mm", evaluation_spacing_mm, True)
    own_origin = origin if evaluation_origin_mm is None else _triple("evaluation_origin_mm", evaluation_origin_mm)
    if evaluation_spacing_mm is None and evaluation_origin_mm is None and reference.shape != evaluation.shape:
        problem = f"the reference is {reference.shape}, the evaluation {evaluation.shape}"
        raise InputError("gamma: shapes", problem, "Give evaluation_spacing_mm and evaluation_origin_mm of another grid")
    masks = {name: np.asarray(_numpy(mask)).astype(bool) for name, mask in (regions or {}).items()}
    for name, mask in masks.items():
        _check(f"regions['{name}']", mask.shape, mask.shape == reference.shape, f"a mask of shape {reference.shape}")

    # Normalisation and cutoff stay in the reference's own precision, as in pymedphys: the same voxels count.
    norm = reference.max() if normalisation_gy is None else normalisation_gy
    if not norm > 0:
        raise InputError(
            "gamma: reference_gy", f"its maximum is {norm}", "Expected dose somewhere: has it been read and scaled?"
        )
    counts = reference >= cutoff_percent / 100 * norm
    if local:
        counts &= reference > 0
    grid = relate_grids(reference.shape, spacing, origin, evaluation.shape, own_spacing, own_origin)
    task = _Task(
        reference,
        evaluation,
        grid,
        np.flatnonzero(counts),
        float(norm),
        mode,
        local,
        cutoff_percent,
        float(max_gamma),
        float(tolerance),
        interp_fraction,
    )
    results = []
    for dose_percent, distance_mm in criteria:
        gamma = _gamma(task, float(dose_percent), float(distance_mm))
        rates = {name: _rate(gamma[mask]) for name, mask in masks.items()}
        convention = _convention(task, dose_percent, distance_mm, normalisation_gy)
        results.append(
            GammaResult(float(dose_percent), float(distance_mm), gamma, _rate(gamma.ravel()[task.voxels]), rates, convention)
        )
    return tuple(results)


def gamma_map(
    reference_gy: Any,
    evaluation_gy: Any,
    spacing_mm: Sequence[float],
    dose_percent: float = 3.0,
    distance_mm: float = 3.0,
    **options: Any,
) -> np.ndarray:
    """The gamma map for one pair of criteria: float32 (X, Y, Z), NaN where not evaluated.

    ``options`` and errors are those of :func:`gamma_analysis`.

    Example:
        >>> dose = np.full((8, 8, 8), 50.0, np.float32)
        >>> float(gamma_map(dose, dose + 0.75, (3, 3, 3))[4, 4, 4])
        0.5
    """
    (result,) = gamma_analysis(reference_gy, evaluation_gy, spacing_mm, criteria=[(dose_percent, distance_mm)], **options)
    return result.gamma


def gamma_pass_rate(
    reference_gy: Any,
    evaluation_gy: Any,
    spacing_mm: Sequence[float],
    dose_percent: float = 3.0,
    distance_mm: float = 3.0,
    *,
    mode: str = "pass_rate",
    **options: Any,
) -> float:
    """The part of the evaluated voxels with gamma < 1, in percent; NaN where no voxel is evaluated.

    ``options`` and errors are those of :func:`gamma_analysis`.
    """
    criteria = [(dose_percent, distance_mm)]
    (result,) = gamma_analysis(reference_gy, evaluation_gy, spacing_mm, criteria=criteria, mode=mode, **options)
    return float("nan") if result.pass_rate_percent is None else result.pass_rate_percent


def _gamma(task: _Task, dose_percent: float, distance_mm: float) -> np.ndarray:
    """The map for one pair of criteria."""
    if task.mode == "pymedphys":
        found = _pymedphys(task, dose_percent, distance_mm)
        return np.where(found < 1, np.minimum(found.astype(np.float32), _BELOW_ONE), found.astype(np.float32))
    dose = task.reference.ravel()[task.voxels].astype(np.float64)
    norm = dose if task.local else np.full(dose.size, task.norm)
    gamma = np.full(task.reference.shape, np.nan, np.float32)
    if not task.voxels.size:
        return gamma
    with _THREADS, _torch_threads_kept():
        if task.mode == "sampled":
            settings = (dose_percent, distance_mm, task.max_gamma, task.interp_fraction)
            found = gamma_sampled.search(task.evaluation, task.voxels, dose, norm, task.grid, *settings)
        else:
            found = _exact(task, dose, dose_percent / 100 * norm, distance_mm)
    gamma.ravel()[task.voxels] = np.where(found < 1, np.minimum(found.astype(np.float32), _BELOW_ONE), found)
    return gamma


@contextlib.contextmanager
def _torch_threads_kept() -> Iterator[None]:
    """Give PyTorch, where it is loaded, its number of threads back: numba sets that of the OpenMP that both share, and other
    numbers of threads round the gradients of a training otherwise."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(threads)


def _exact(task: _Task, dose: np.ndarray, criterion: np.ndarray, distance_mm: float) -> np.ndarray:
    # Both doses are rounded to float32 alike, so that equal doses give exactly 0.
    evaluation = np.ascontiguousarray(task.evaluation, np.float32)
    dose = dose.astype(np.float32).astype(np.float64)
    pass_tolerance = min(task.tolerance, _PASS_TOLERANCE)

    def search(which: Any, tolerance: float, pass_only: bool) -> np.ndarray:
        where = (task.voxels[which], dose[which], criterion[which], task.grid, distance_mm)
        return gamma_exact.search(evaluation, *where, task.max_gamma, tolerance, pass_only)

    if task.mode == "pass_rate":
        found = np.floor(search(slice(None), pass_tolerance, True))
    else:
        found = search(slice(None), task.tolerance, False)
        near = np.flatnonzero((found >= 1) & (found <= 1 + task.tolerance))
        if near.size:
            below = search(near, pass_tolerance, True)
            found[near] = np.where(below < 1, below, found[near])
    if not task.grid.covered:
        found[task.grid.outside_mm(task.voxels) > task.max_gamma * distance_mm] = np.nan
    return found


def _pymedphys(task: _Task, dose_percent: float, distance_mm: float) -> np.ndarray:
    try:
        import pymedphys
    except ImportError as error:
        raise InputError("gamma: mode 'pymedphys'", "pymedphys is not installed", "pip install 'pymedphys>=0.41'") from error
    grid = task.grid
    axes = tuple(grid.position_mm[axis, :n] for axis, n in enumerate(grid.shape))
    own = tuple(grid.low_mm[axis] + np.arange(n) * grid.spacing_mm[axis] for axis, n in enumerate(task.evaluation.shape))
    with np.errstate(invalid="ignore"):
        return pymedphys.gamma(
            axes,
            task.reference,
            own,
            task.evaluation,
            dose_percent,
            distance_mm,
            lower_percent_dose_cutoff=task.cutoff_percent,
            interp_fraction=task.interp_fraction,
            max_gamma=task.max_gamma,
            local_gamma=task.local,
            global_normalisation=task.reference.dtype.type(task.norm),
        )


def _rate(gamma: np.ndarray) -> float | None:
    evaluated, passed = int(np.count_nonzero(gamma == gamma)), int(np.count_nonzero(gamma < 1))
    return 100.0 * passed / evaluated if evaluated else None


def _convention(task: _Task, dose_percent: float, distance_mm: float, normalisation_gy: float | None) -> str:
    norm = f"{'reference maximum ' if normalisation_gy is None else ''}{task.norm:.2f} Gy"
    how = {
        "exact": f"continuous minimum to {task.tolerance:g}",
        "pass_rate": "continuous minimum, pass or fail only",
        "sampled": f"minimum over pymedphys's samples, fraction {task.interp_fraction:g}",
        "pymedphys": f"pymedphys, fraction {task.interp_fraction:g}",
    }[task.mode]
    return (
        f"gamma {dose_percent:g} %/{distance_mm:g} mm, {'local' if task.local else 'global'}, normalisation {norm}, "
        f"cutoff {task.cutoff_percent:g} %, cut off at {task.max_gamma:g}, pass < 1, 3D, {how}"
    )


def _check(name: str, value: Any, good: bool, expected: str) -> None:
    if not good:
        raise InputError(f"gamma: {name}", f"got {value!r}", f"Expected {expected}")


def _numpy(value: Any) -> Any:
    """An array as it is; a tensor as an array, half precision as float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()
    return value


def _dose(name: str, value: Any) -> np.ndarray:
    dose = np.asarray(_numpy(value))
    _check(
        name, dose.shape, dose.ndim == 3 and min(dose.shape) >= 2, "a volume (X, Y, Z) of two voxels or more along each axis"
    )
    _check(name, dose.dtype, dose.dtype.kind in "fiu", "numbers")
    if dose.dtype not in (np.float32, np.float64):
        dose = dose.astype(np.float32 if dose.dtype.itemsize <= 2 else np.float64)
    _check(name, "NaN or infinity", bool(np.isfinite(dose.min()) and np.isfinite(dose.max())), "finite doses")
    return np.ascontiguousarray(dose)


def _triple(name: str, value: Sequence[float], positive: bool = False) -> np.ndarray:
    triple = np.asarray(_numpy(value), np.float64)
    good = triple.shape == (3,) and bool(np.isfinite(triple).all()) and (not positive or bool((triple > 0).all()))
    _check(name, value, good, f"three {'positive' if positive else 'finite'} numbers, in mm")
    return triple
