"""Search spaces to and from plain lists, strings and numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from evoprune.errors import SearchSpaceError
from evoprune.space.kernel_genes import KernelGenes, StrideGenes
from evoprune.space.masks import StrideMask
from evoprune.space.outside_tensors import OutsideTensors, Product, Reduction, Size
from evoprune.space.plan import Axis, Frozen, Group, Layer, Norm, Plan, TensorInfo

OUTSIDE_TENSORS: Mapping[str, Any] = {"reductions": Reduction, "products": Product, "sizes": Size}
"""Parts of a plan that most networks do not have -> kind of record."""


def plan_to_dict(space: Plan) -> dict[str, Any]:
    """The plan as plain lists, strings and numbers, for JSON. Places outside of tensors are left out if it has none."""
    outside = {
        name: [vars(record) | {"gene": record.gene.tolist()} for record in getattr(space, name)]
        for name in OUTSIDE_TENSORS
        if getattr(space, name)
    }
    return outside | {
        "groups": [vars(group) | {"layers": list(group.layers)} for group in space.groups],
        "axes": [{"tensor": axis.tensor, "dim": axis.dim, "gene": axis.gene.tolist()} for axis in space.axes],
        "layers": [vars(layer) | {"shape": list(layer.shape)} for layer in space.layers],
        "norms": [dict(vars(norm)) for norm in space.norms],
        "tensors": [vars(tensor) | {"shape": list(tensor.shape)} for tensor in space.tensors],
        "frozen": [dict(vars(frozen)) for frozen in space.frozen],
        "fixed_macs": space.fixed_macs,
        "kernels": [_fields(genes, "weight", "start", "shape", "block") for genes in space.kernels],
        "strides": [
            _fields(genes, "weight", "start", "shape", "kernel_size", "sharing", "groups")
            | {"table": [[mask.start, mask.stride] for mask in genes.table]}
            for genes in space.strides
        ],
    }


def plan_from_dict(data: Mapping[str, Any]) -> Plan:
    """The plan that `plan_to_dict` wrote. Raises SearchSpaceError if a value is missing or of the wrong type."""
    try:
        space = Plan(
            groups=tuple(Group(**row | {"layers": tuple(row["layers"])}) for row in data["groups"]),
            axes=tuple(Axis(row["tensor"], row["dim"], np.array(row["gene"], np.int32)) for row in data["axes"]),
            layers=tuple(Layer(**row | {"shape": tuple(row["shape"])}) for row in data["layers"]),
            norms=tuple(Norm(**row) for row in data["norms"]),
            tensors=tuple(TensorInfo(**row | {"shape": tuple(row["shape"])}) for row in data["tensors"]),
            frozen=tuple(Frozen(**row) for row in data["frozen"]),
            fixed_macs=int(data["fixed_macs"]),
            kernels=tuple(KernelGenes(**row | {"shape": tuple(row["shape"])}) for row in data["kernels"]),
            strides=tuple(
                StrideGenes(
                    **row
                    | {name: tuple(row[name]) for name in ("shape", "kernel_size")}
                    | {"table": tuple(StrideMask(*pair) for pair in row["table"])}
                )
                for row in data["strides"]
            ),
            **{
                name: tuple(kind(**row | {"gene": np.array(row["gene"], np.int32)}) for row in data.get(name, ()))
                for name, kind in OUTSIDE_TENSORS.items()
            },
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SearchSpaceError(f"this is no search space of evoprune: {error!r}") from None
    records: tuple[Axis | OutsideTensors, ...] = (*space.axes, *space.reductions, *space.products, *space.sizes)
    for record in records:
        if record.gene.size and int(record.gene.max()) >= space.genes:
            name = record.tensor if isinstance(record, Axis) else type(record).__name__.lower()
            raise SearchSpaceError(
                f"this is no search space of evoprune: {name} has gene {record.gene.max()} of {space.genes}"
            )
    return space


def _fields(record: object, *names: str) -> dict[str, Any]:
    """The named fields of a record, tuples as lists."""
    values = {name: getattr(record, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
