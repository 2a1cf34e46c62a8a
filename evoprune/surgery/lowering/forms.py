"""Forms of a masked convolution: dense convolutions that compute the same; the fastest one is found by measuring.

Inputs that lose the same taps are grouped; their taps are covered by lattices, each of which is a small dense kernel.
Lattices of one shape become one convolution, after the inputs have been shifted so that the lattices coincide, or one
convolution per place, added up. Outputs that read the same kernels become a block with its own convolutions. With
single taps as lattices and all inputs shifted, this is the paper's reduced im2col product: a matrix of the pixels under
the remaining taps, times a matrix of the remaining weights.

References:
    Anwar, Hwang and Sung 2017, section 4 (the reduced im2col product).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from evoprune.surgery.lowering.lattices import (
    Lattice,
    LatticeShape,
    Piece,
    Sizes,
    bounding,
    cover,
    natural_shapes,
    pattern_of,
    single,
)
from evoprune.surgery.lowering.lowered_conv import Block, Geometry, Source, Term

MOST_FORMS = 10
"""Number of forms of a layer that are measured: those of lowest estimate."""

MOST_SHAPES, SHAPES_TOGETHER, MOST_TERMS = 6, 3, 6
"""Number of lattice shapes that are tried, that are combined, and of convolutions that are added up in one block."""

BLOCK_COUNTS = (8, 4, 2)
MOST_BLOCKS = 16

# The estimate only ranks forms: products (in vectors of 16), copied elements and calls, in units of a product.
_PER_COPY, _PER_CALL, _VECTOR = 30, 250_000, 16


@dataclass(frozen=True, eq=False)
class Form:
    """One way to compute a masked convolution. estimate: its expected cost, for ranking."""

    name: str
    blocks: tuple[Block, ...]
    estimate: float

    @property
    def order(self) -> tuple[int, ...] | None:
        """The input maps that it reads, in order; None if there are several blocks."""
        return self.blocks[0].order if len(self.blocks) == 1 else None


@dataclass(frozen=True, eq=False)
class MaskedLayer:
    """A masked convolution and its input.

    Attributes:
        geometry: Of the convolution.
        mask: bool (outputs, inputs per group, taps), the weights that stay.
        groups: Groups of the convolution.
        batch: Number of images.
        pixels_in: Pixels of one input map.
        pixels_out: Pixels of one output map.
        ordered: Whether the layer before can make the inputs in any order at no cost.
    """

    geometry: Geometry
    mask: np.ndarray
    groups: int
    batch: int
    pixels_in: int
    pixels_out: int
    ordered: bool

    @property
    def inputs(self) -> int:
        """Number of input maps."""
        return self.mask.shape[1] * self.groups


def forms(layer: MaskedLayer) -> list[Form]:
    """Forms of a layer by their estimates, best first; none if the layer has no zeros."""
    if layer.mask.all():
        return []
    found = list(_grouped_forms(layer) if layer.groups > 1 else _plain_forms(layer))
    product = [form for form in found if form.name == "im2col"]
    found = sorted((form for form in found if form.name != "im2col"), key=lambda form: form.estimate)
    return found[:MOST_FORMS] + product[:1]


def _plain_forms(layer: MaskedLayer) -> Iterator[Form]:
    """Forms of a convolution with one group: as one block, and as several blocks."""
    rows = np.arange(len(layer.mask))
    for costed_block in _blocks(layer, rows, np.arange(layer.inputs)):
        yield Form(
            costed_block.name,
            (costed_block.block,),
            costed_block.cost + _selecting(layer, costed_block.block, free=layer.ordered),
        )
    for number, partition in enumerate(_partitions(layer.mask)):
        costed_blocks = [_blocks(layer, np.array(part), np.arange(layer.inputs))[0] for part in partition]
        yield _of_blocks(f"{len(partition)} blocks", layer, costed_blocks)
        together = _one_grouped(layer, partition) if number == 0 or len(partition) in BLOCK_COUNTS else None
        if together is not None:
            yield together


def _grouped_forms(layer: MaskedLayer) -> Iterator[Form]:
    """Forms of a grouped convolution: one smaller kernel for all groups, one per class of groups, or one per group."""
    per_group, inputs = len(layer.mask) // layer.groups, layer.mask.shape[1]
    stays = np.any(layer.mask.reshape(layer.groups, -1, layer.mask.shape[2]), axis=1)  # (groups, taps)
    size = layer.geometry.kernel_size
    box = bounding(pattern_of(np.flatnonzero(stays.any(0)).tolist() or [0]), size)
    groups = np.arange(layer.groups)
    yield _of_blocks("box", layer, [_group_class(layer, groups, [box] * layer.groups)])
    boxes = [bounding(pattern_of(np.flatnonzero(row).tolist() or [0]), size) for row in stays]
    for name, key in (("shifted classes", lambda box: box.shape), ("classes", lambda box: box)):
        classes: dict[Lattice | LatticeShape, list[int]] = {}
        for group, lattice in enumerate(boxes):
            classes.setdefault(key(lattice), []).append(group)
        if len(classes) <= MOST_BLOCKS:
            members = [sorted(some, key=lambda group: boxes[group]) for some in classes.values()]
            costed_blocks = [_group_class(layer, np.array(some), [boxes[group] for group in some]) for some in members]
            yield _of_blocks(name, layer, costed_blocks)
    if per_group > 1 and layer.groups <= MOST_BLOCKS:
        of_group = np.arange(len(layer.mask)).reshape(layer.groups, per_group)
        columns = np.arange(layer.inputs).reshape(layer.groups, inputs)
        yield _of_blocks("groups", layer, [_blocks(layer, *pair)[0] for pair in zip(of_group, columns, strict=True)])


@dataclass(frozen=True, eq=False)
class _CostedBlock:
    """A block and its expected cost, without the selection of its inputs."""

    name: str
    block: Block
    cost: float


def _blocks(layer: MaskedLayer, rows: np.ndarray, columns: np.ndarray) -> list[_CostedBlock]:
    """Ways to compute the output maps `rows` from the input maps `columns`, best first."""
    size = layer.geometry.kernel_size
    stays = layer.mask[rows].any(0)  # (inputs a group, taps)
    inputs_of: dict[int, list[int]] = {}
    for place, row in enumerate(stays):
        if pattern := pattern_of(np.flatnonzero(row).tolist()):
            inputs_of.setdefault(pattern, []).append(place)
    if not inputs_of:  # maps without any weight: their bias, by a product with zero
        piece = Piece(Lattice(single(len(size)), (0,) * len(size)), 0)
        return [_block(layer, "nothing", rows, columns, {0: [0]}, {0: (piece,)}, False)]
    costed_blocks = []
    for shapes in _shape_sets(inputs_of, size):
        covers = {pattern: cover(pattern, shapes, size) for pattern in inputs_of}
        pieces = {pattern: found for pattern, found in covers.items() if found is not None}
        if len(pieces) < len(inputs_of) or {p.lattice.shape for some in pieces.values() for p in some} != set(shapes):
            continue
        places = len({piece.lattice for some in pieces.values() for piece in some})
        product = shapes == (single(len(size)),)
        moved = places > len(shapes)
        for shifted in (True, False) if moved and places <= MOST_TERMS else (True,):
            name = "im2col" if product and shifted else _named(shapes, shifted and moved)
            costed_blocks.append(_block(layer, name, rows, columns, inputs_of, pieces, shifted))
    return sorted(costed_blocks, key=lambda costed_block: costed_block.cost)


def _shape_sets(inputs_of: Mapping[int, Sequence[int]], size: Sizes) -> Iterator[tuple[LatticeShape, ...]]:
    """Sets of lattice shapes that could cover all patterns: whole kernel, single taps, and the most suitable ones."""
    weight: Counter[LatticeShape] = Counter()
    for pattern, inputs in inputs_of.items():
        for shape in natural_shapes(pattern, size):
            weight[shape] += len(inputs)
    usual = (LatticeShape(size, tuple(1 for _ in size)), single(len(size)))
    shapes = dict.fromkeys([*usual, *(shape for shape, _ in weight.most_common(MOST_SHAPES))])
    for together in range(1, SHAPES_TOGETHER + 1):
        yield from combinations(sorted(shapes, reverse=True), together)


def _named(shapes: Iterable[LatticeShape], shifted: bool) -> str:
    sizes = (
        "x".join(map(str, shape.counts)) + ("" if set(shape.steps) == {1} else f"/{max(shape.steps)}")
        for shape in shapes
    )
    return ("shifted " if shifted else "") + "+".join(sizes)


def _block(
    layer: MaskedLayer,
    name: str,
    rows: np.ndarray,
    columns: np.ndarray,
    inputs_of: Mapping[int, Sequence[int]],
    pieces: Mapping[int, Sequence[Piece]],
    shifted: bool,
) -> _CostedBlock:
    """One block. inputs_of: places in `columns` of each pattern's inputs. pieces: lattices that cover each pattern."""
    size = layer.geometry.kernel_size
    order: list[int] = []
    wanted: dict[tuple[LatticeShape, Sizes | None], list[tuple[Source, np.ndarray]]] = {}
    for pattern in sorted(inputs_of, key=lambda pattern: tuple(piece.lattice for piece in pieces[pattern])):
        inputs = np.array(inputs_of[pattern])
        start, stop = len(order), len(order) + len(inputs)
        order += columns[inputs].tolist()
        for piece in pieces[pattern]:
            lattice = piece.lattice
            taps = np.array([tap if piece.bits >> tap & 1 else -1 for tap in lattice.taps(size)])
            term = wanted.setdefault((lattice.shape, None if shifted else lattice.start), [])
            term.append((Source(start, stop, lattice.start), _flat(layer, rows, inputs, taps, lattice.shape)))
    terms = tuple(
        Term(shape, tuple(source for source, _ in parts), np.concatenate([taps for _, taps in parts], axis=1))
        for (shape, _), parts in wanted.items()
    )
    block = Block(tuple(rows.tolist()), tuple(order), terms)
    return _CostedBlock(name, block, sum(_term_cost(layer, term, len(rows)) for term in terms))


def _flat(
    layer: MaskedLayer, rows: np.ndarray, inputs: np.ndarray, taps: np.ndarray, shape: LatticeShape
) -> np.ndarray:
    """Positions of taps in the layer's flat weight, -1 for taps of -1: int64 (rows, inputs, *counts)."""
    kernels = rows[:, None] * layer.mask.shape[1] + inputs
    positions = kernels[:, :, None] * layer.mask.shape[2] + np.maximum(taps, 0)
    return np.where(taps < 0, -1, positions).reshape(len(rows), len(inputs), *shape.counts)


def _group_class(layer: MaskedLayer, groups: np.ndarray, boxes: Sequence[Lattice]) -> _CostedBlock:
    """Groups whose lattices have one shape, as one grouped convolution with that kernel."""
    per_group, inputs = len(layer.mask) // layer.groups, layer.mask.shape[1]
    size = layer.geometry.kernel_size
    rows = (groups[:, None] * per_group + np.arange(per_group)).reshape(-1)
    order = (groups[:, None] * inputs + np.arange(inputs)).reshape(-1)
    shape = boxes[0].shape
    taps = [
        _flat(layer, some, np.arange(inputs), np.array(box.taps(size)), shape)
        for some, box in zip(rows.reshape(len(groups), per_group), boxes, strict=True)
    ]
    sources = tuple(Source(at * inputs, (at + 1) * inputs, box.start) for at, box in enumerate(boxes))
    term = Term(shape, sources, np.concatenate(taps), groups=len(groups))
    block = Block(tuple(rows.tolist()), tuple(order.tolist()), (term,))
    return _CostedBlock("", block, _term_cost(layer, term, len(rows)))


def _one_grouped(layer: MaskedLayer, partition: Sequence[Sequence[int]]) -> Form | None:
    """Blocks of equal size as one grouped convolution; blocks with fewer inputs read map 0 with weights of zero."""
    if len(partition) < 2 or len({len(part) for part in partition}) > 1:
        return None
    size = layer.geometry.kernel_size
    stays = np.array([np.any(layer.mask[list(part)], axis=0) for part in partition])  # (blocks, inputs, taps)
    reads = [np.flatnonzero(np.any(some, axis=1)) for some in stays]
    most = max(1, *(len(some) for some in reads))
    taken = np.flatnonzero(stays.any(axis=(0, 1))).tolist()
    box = bounding(pattern_of(taken or [0]), size)
    order, taps = [], []
    for part, inputs in zip(partition, reads, strict=True):
        missing = most - len(inputs)
        order += [*inputs.tolist(), *[0] * missing]
        own = _flat(layer, np.array(part), inputs, np.array(box.taps(size)), box.shape)
        taps.append(np.pad(own, [(0, 0), (0, missing), *[(0, 0)] * len(size)], constant_values=-1))
    rows = [row for part in partition for row in part]
    term = Term(box.shape, (Source(0, len(order), box.start),), np.concatenate(taps), groups=len(partition))
    costed_block = _CostedBlock("", Block(tuple(rows), tuple(order), (term,)), _term_cost(layer, term, len(rows)))
    return _of_blocks(f"{len(partition)} blocks in one", layer, [costed_block])


def _of_blocks(name: str, layer: MaskedLayer, costed_blocks: Sequence[_CostedBlock]) -> Form:
    blocks = tuple(costed_block.block for costed_block in costed_blocks)
    cost = sum(costed_block.cost for costed_block in costed_blocks)
    if len(blocks) == 1:
        return Form(name, blocks, cost + _selecting(layer, blocks[0], free=layer.ordered))
    cost += sum(_selecting(layer, block, free=False) for block in blocks)
    written = len(layer.mask) * layer.pixels_out * layer.batch
    rows = [row for block in blocks for row in block.rows]
    copies = 1 if rows == sorted(rows) else 2
    return Form(name, blocks, cost + copies * (_PER_COPY * written + _PER_CALL))


def _selecting(layer: MaskedLayer, block: Block, free: bool) -> float:
    """The cost of selecting a block's inputs."""
    if free or block.order == tuple(range(layer.inputs)):
        return 0.0
    return _PER_COPY * len(block.order) * layer.pixels_in * layer.batch + _PER_CALL


def _term_cost(layer: MaskedLayer, term: Term, rows: int) -> float:
    columns = term.taps.shape[1] * term.groups
    vectors = -(-rows // _VECTOR) * _VECTOR if term.groups == 1 else rows
    cost = float(vectors * term.taps.shape[1] * term.shape.area * layer.pixels_out * layer.batch) + _PER_CALL
    offsets = {source.offset for source in term.sources}
    if len(offsets) > 1:
        cost += _PER_COPY * columns * layer.pixels_out * layer.batch + _PER_CALL * len(offsets) / 4
    cost += _PER_COPY * rows * layer.pixels_out * layer.batch / 3  # written, or added to a previous term
    return cost


def _partitions(mask: np.ndarray) -> list[list[list[int]]]:
    """Partitions of the output maps into blocks: by equal masks, then coarser ones with similar masks joined."""
    flat = mask.reshape(len(mask), -1)
    _, first, which = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    which = which.reshape(-1)
    blocks = [np.flatnonzero(which == number).tolist() for number in np.argsort(first)]
    if len(blocks) < 2:
        return []
    found = [blocks] if len(blocks) <= MOST_BLOCKS else []
    for count in BLOCK_COUNTS:
        if count < len(blocks):
            blocks = _joined(flat, blocks, count)
            found.append(sorted(blocks))
    return found


def _joined(flat: np.ndarray, blocks: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Joins blocks until `count` are left, each time the two whose union adds the fewest products."""
    rows = [list(block) for block in blocks]
    reads = np.array([flat[block].any(0) for block in rows]).astype(np.float64)
    sizes = np.array([len(block) for block in rows], dtype=np.float64)
    while len(rows) > count:
        totals = reads.sum(1)
        union = totals[:, None] + totals - reads @ reads.T
        more = (sizes[:, None] + sizes) * union - (sizes * totals)[:, None] - sizes * totals
        more[np.tril_indices(len(rows))] = np.inf
        one, other = np.unravel_index(int(more.argmin()), more.shape)
        rows[one] = sorted(rows[one] + rows.pop(other))
        reads[one] = np.maximum(reads[one], reads[other])
        sizes[one] += sizes[other]
        reads, sizes = np.delete(reads, other, 0), np.delete(sizes, other)
    return rows
