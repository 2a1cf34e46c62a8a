"""The last stage of a run: the baseline and all survivors on the test set, timed, and the tables of them."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.data.load import Data
from evoprune.data.splits import Split
from evoprune.latency.layer_latency import layer_latencies_ms
from evoprune.latency.network_latency import latencies_ms, lowered
from evoprune.networks.weights import load_weights
from evoprune.pipeline.round_context import BASELINE, Reference, RoundContext
from evoprune.record import files
from evoprune.record.interrupts import uninterrupted
from evoprune.record.layer_tables import layers_frame, write_layers
from evoprune.record.tables import SurvivorRow, recalls_to_text, survivors_frame
from evoprune.scoring.candidate import Candidate
from evoprune.space.cost import cost
from evoprune.space.tensors import cut_masks
from evoprune.surgery.apply import compact
from evoprune.training.evaluation import ClassCounts, Evaluation, evaluate

_NAMED_CLASSES = 5

logger = logging.getLogger(__name__)


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
    on_test, on_validation = (_evaluations(context, networks, split) for split in (data.test, data.validation))
    mcr_test, mcr_validation = (_mcrs(networks, found) for found in (on_test, on_validation))
    recalls = {name: found.classes for name, found in (on_test or on_validation).items() if found.classes is not None}
    if BASELINE in recalls:
        _warn_of_lost_answers(recalls, data)
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
            **_recalls_of(recalls, survivor.key),
        )
        for survivor in survivors
    ]
    genomes = {survivor.key: survivor.genome for survivor in survivors}
    layers = layers_frame(reference.space, context.space, genomes, times_ms, times_ms[BASELINE])
    with uninterrupted():
        write_layers(folder, layers)
        files.write_parquet(folder.survivors_table, survivors_frame(rows))


def _evaluations(context: RoundContext, networks: Mapping[str, nn.Module], split: Split) -> dict[str, Evaluation]:
    """Each network's evaluation on a split, by the search's metric; none if the split has no images."""
    balanced = context.config.search.metric == "balanced"
    return {
        name: evaluate(network, split, context.device, task=context.task, balanced=balanced)
        for name, network in networks.items()
        if len(split)
    }


def _mcrs(networks: Iterable[str], found: Mapping[str, Evaluation]) -> dict[str, float]:
    """Each network's MCR; NaN if it has no evaluation."""
    return {name: found[name].mcr if name in found else math.nan for name in networks}


def _recalls_of(recalls: Mapping[str, ClassCounts], key: str) -> dict[str, Any]:
    """The columns of a survivor's recalls; none if the task has no classes."""
    if key not in recalls:
        return {}
    survivor, baseline = recalls[key], recalls[BASELINE]
    return {
        "worst_class_recall": survivor.worst_recall,
        "baseline_worst_class_recall": baseline.worst_recall,
        "class_recalls": recalls_to_text(survivor.recalls),
        "baseline_class_recalls": recalls_to_text(baseline.recalls),
    }


def _warn_of_lost_answers(recalls: Mapping[str, ClassCounts], data: Data) -> None:
    """Logs a warning for each survivor that never gives an answer that the baseline gives rightly."""
    baseline = recalls[BASELINE]
    for key, counts in recalls.items():
        given = torch.zeros_like(baseline.answers)
        shared = min(len(given), len(counts.answers))
        given[:shared] = counts.answers[:shared]
        lost = ((baseline.right > 0) & (given == 0)).nonzero().flatten().tolist()
        if lost:
            named = [f"{label} ({data.class_names[label]})" if data.class_names else str(label) for label in lost]
            logger.warning(
                "survivor %s never answers class %s, which the baseline does: its recall is 0; lower search.tolerance, "
                "or set search.metric to balanced, so that rare classes count as much as frequent ones",
                *(key, ", ".join(named[:_NAMED_CLASSES]) + (", ..." if len(named) > _NAMED_CLASSES else "")),
            )
