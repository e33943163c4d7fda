"""Coverage of the targets and sparing of the organs, as penalties on DVH points."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_vmat.losses.soft_dvh import ramp_reach, soft_dose_at_volume, soft_volume_at_dose
from monai_vmat.losses.structure_loss import StructureLoss
from monai_vmat.metrics.case_metrics import SMALL_STRUCTURE_VOXELS
from monai_vmat.protocol import Protocol


class DVHLoss(StructureLoss):
    """``10 x D95 shortfall of targets + 2 x Vx excess of organs + 1 x Dmean excess of organs``, each a mean over structures.

    * D95 shortfall: ``relu(limit - D95)``; the limit is 95 % of the patient's own prescription of that target (or the share
      that the protocol's D95 goal is of the protocol's prescription).
    * Vx excess: ``relu(Vx - limit)``, for every volume goal of the protocol, as a share of the structure.
    * Dmean excess: ``relu(Dmean - limit)``, for every organ.

    A prediction is to resemble the delivered plan, so no limit asks for more than that plan attained: where it misses a
    goal, and where an organ has no Dmean goal, its own value is the limit. So the loss is 0 at equality.
    ``relax_to_reference=False`` compares with the goals alone.

    Doses are fractions of the protocol's primary prescription. **On patches** a structure is what lies of it in the patch: D95
    and Vx are those of that part. ``counts["cut"]`` says how many structures touched the patch's border; train on whole
    volumes (``experiments/full_volume.json``) for whole structures. After each forward pass ``figures`` holds the three parts.

    Args:
        protocol: targets, organs and goals.
        target_weight, volume_weight, mean_weight: of the three parts.
        coverage: the share of the prescription that D95 has to reach where the protocol has no D95 goal.
        reach_gy: limits of :func:`~monai_vmat.losses.soft_dvh.ramp_reach`.
        relax_to_reference: see above.
        min_voxels: structures with fewer voxels in the patch are skipped.

    Shapes:
        ``pred`` and ``dose`` (B, 1, X, Y, Z); ``structures`` likewise, bits (see :mod:`monai_vmat.masks`);
        ``prescription_gy`` (B, targets), 0 where a target is absent; ``spacing_mm`` (B, 3). Returns a scalar.
    """

    def __init__(
        self,
        protocol: Protocol,
        *,
        target_weight: float = 10.0,
        volume_weight: float = 2.0,
        mean_weight: float = 1.0,
        coverage: float = 0.95,
        reach_gy: tuple[float, float] = (0.05, 5.0),
        relax_to_reference: bool = True,
        min_voxels: int = SMALL_STRUCTURE_VOXELS,
    ) -> None:
        super().__init__(protocol, min_voxels)
        self.part_weights = {"target_shortfall": target_weight, "volume_excess": volume_weight, "mean_excess": mean_weight}
        self.reach = reach_gy[0] / protocol.rx_gy, reach_gy[1] / protocol.rx_gy
        self.relax_to_reference = relax_to_reference
        self.figures: dict[str, Tensor] = {}
        self.coverage = {t.name: coverage for t in protocol.targets}
        self.volume_goals: dict[str, list[tuple[float, float, str]]] = {}  # threshold in Gy, limit, unit
        self.mean_limit_gy: dict[str, float | None] = {organ.name: None for organ in protocol.organs}
        for goal in protocol.goals:
            name, target = goal.structure, protocol.structure(goal.structure)
            if goal.op == ">=" and goal.metric == "D95" and target.prescription_gy:
                self.coverage[name] = goal.limit / target.prescription_gy
            elif goal.op == "<=" and goal.metric.startswith("V") and target.role != "target":
                threshold = float(goal.metric.removeprefix("V").removesuffix("Gy"))
                self.volume_goals.setdefault(name, []).append((threshold, goal.limit, goal.unit))
            elif goal.op == "<=" and goal.metric == "Dmean" and name in self.mean_limit_gy:
                self.mean_limit_gy[name] = goal.limit
        names = {*self.coverage, *self.volume_goals, *self.mean_limit_gy}
        self.wanted = [s for s in protocol.structures if s.name in names]

    def forward(self, pred: Tensor, dose: Tensor, structures: Tensor, prescription_gy: Tensor, spacing_mm: Tensor) -> Tensor:
        pred = pred.to(dose.dtype)
        targets = [t.name for t in self.protocol.targets]
        prescriptions = prescription_gy.tolist()
        voxel_cc = (spacing_mm.double().prod(1) / 1000.0).tolist()
        terms: dict[str, list[Tensor]] = {part: [] for part in self.part_weights}
        cut = 0
        for sample, structure, mask in self.counted(structures, self.wanted):
            name = structure.name
            cut += _touches_border(mask)
            index = mask.flatten().nonzero().squeeze(1)
            inside = pred[sample].flatten().index_select(0, index)
            reference = dose[sample].flatten().index_select(0, index)
            if structure.role == "target":
                rx = prescriptions[sample][targets.index(name)] / self.protocol.rx_gy
                if rx > 0:
                    d95, reached = (soft_dose_at_volume(d, 95.0) for d in (inside, reference))
                    terms["target_shortfall"].append((-self._limit(-self.coverage[name] * rx, -reached) - d95).relu())
                continue
            for threshold_gy, limit, unit in self.volume_goals.get(name, []):
                threshold = threshold_gy / self.protocol.rx_gy
                vx, reached = (
                    soft_volume_at_dose(d, threshold, ramp_reach(d, threshold, *self.reach)) for d in (inside, reference)
                )
                share = limit / 100.0 if unit == "%" else limit / (len(index) * voxel_cc[sample])
                terms["volume_excess"].append((vx - self._limit(share, reached)).relu())
            if name in self.mean_limit_gy:
                goal = self.mean_limit_gy[name]
                mean_limit = reference.mean() if goal is None else self._limit(goal / self.protocol.rx_gy, reference.mean())
                terms["mean_excess"].append((inside.mean() - mean_limit).relu())
        self.counts["cut"] = cut
        total = 0.0 * pred.sum()  # a patch without structures: 0, and still something to go backward from
        self.figures = {}
        for part, values in terms.items():
            if values:
                value = torch.stack(values).mean()
                self.figures[part] = value.detach()
                total = total + self.part_weights[part] * value
        return total

    def _limit(self, goal: float, reached: Tensor) -> Tensor:
        """The upper limit of a quantity: the goal, or what the delivered plan reached where that is higher."""
        return reached.clamp(min=goal) if self.relax_to_reference else torch.full_like(reached, goal)


def _touches_border(mask: Tensor) -> bool:
    faces = [mask.select(axis, end).any() for axis in range(mask.dim()) for end in (0, -1)]
    return bool(torch.stack(faces).any())
