"""The last stage of a run: the baseline and all survivors on the test set, timed, and the tables of them."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from evoprune.data.splits import Split
from evoprune.latency.layer_latency import layer_latencies_ms
from evoprune.latency.network_latency import latencies_ms, lowered
from evoprune.networks.weights import load_weights
from evoprune.pipeline.round_context import BASELINE, Reference, RoundContext
from evoprune.record import files
from evoprune.record.interrupts import uninterrupted
from evoprune.record.layer_tables import layers_frame, write_layers
from evoprune.record.tables import SurvivorRow, survivors_frame
from evoprune.scoring.candidate import Candidate
from evoprune.space.cost import cost
from evoprune.space.tensors import cut_masks
from evoprune.surgery.apply import compact
from evoprune.training.evaluation import count_errors


def test(
    context: RoundContext,
    model: nn.Module,
    survivors: Sequence[Candidate],
    weights: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Tests the baseline and the survivors on the test set, times them layer by layer, and writes the tables.

    The test set is read here alone, once.

    Args:
        model: the baseline of this round.
        weights: of each survivor's compacted network, by the survivor's key.
    """
    folder, data, device = context.folder, context.data, context.device
    context.progress.stage("test", f"{len(data.test)} images")
    reference = context.reference or Reference(model, context.space, context.folder)
    networks = {BASELINE: reference.model.to(device)}
    for survivor in survivors:
        network = compact(model, context.space, survivor.genome)
        load_weights(network, weights[survivor.key], str(folder.survivor(survivor.key)))
        networks[survivor.key] = network.to(device).eval()
    mcr_test, mcr_validation = (_mcr(networks, split, device) for split in (data.test, data.validation))
    image, _ = data.validation.batch(torch.arange(1))
    masks = {survivor.key: cut_masks(context.space, context.space.check(survivor.genome)) for survivor in survivors}
    latency_ms = latencies_ms(lowered(networks, masks, image.to(device)), image.to(device))
    times_ms = layer_latencies_ms(networks, [layer.name for layer in reference.space.layers], image.to(device))
    whole = cost(reference.space, reference.space.full())
    rows = [
        SurvivorRow(
            key=survivor.key,
            mcr_search=survivor.score.errors / survivor.score.images,
            mcr_retrained=mcr_validation[survivor.key],
            mcr_test=mcr_test[survivor.key],
            baseline_mcr_test=mcr_test[BASELINE],
            macs=survivor.score.macs,
            macs_ratio=survivor.score.macs / whole.macs,
            params=survivor.score.params,
            params_ratio=survivor.score.params / whole.params,
            latency_ms=latency_ms[survivor.key],
            baseline_latency_ms=latency_ms[BASELINE],
            weights=folder.survivor(survivor.key).relative_to(folder.root).as_posix(),
            baseline_mcr_validation=mcr_validation[BASELINE],
            bytes=survivor.score.bytes,
            bytes_ratio=survivor.score.bytes / whole.bytes,
            other_costs=survivor.score.other_costs,
        )
        for survivor in survivors
    ]
    genomes = {survivor.key: survivor.genome for survivor in survivors}
    layers = layers_frame(reference.space, context.space, genomes, times_ms, times_ms[BASELINE])
    with uninterrupted():
        write_layers(folder, layers)
        files.write_parquet(folder.survivors_table, survivors_frame(rows))


def _mcr(networks: Mapping[str, nn.Module], split: Split, device: torch.device) -> dict[str, float]:
    """Each network's MCR on a split; NaN if the split has no images."""
    if not len(split):
        return dict.fromkeys(networks, math.nan)
    return {name: count_errors(network, split, device) / len(split) for name, network in networks.items()}
