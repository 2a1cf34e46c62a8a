"""The state of a search's loop as plain JSON data, for its snapshot, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from evoprune.scoring.conditions import Conditions, ImageRecord
from evoprune.search.loop import GenomeBatch, LoopState


def loop_to_json(state: LoopState) -> dict[str, Any]:
    """The state as `schemas.StoredLoop` has it. Conditions that several batches share are stored once."""
    conditions = list(dict.fromkeys(batch.conditions for batch in state.under_way))
    return {
        "wrong_share": state.record.wrong_share.tolist(),
        "conditions": [
            {
                "order": one.order.tolist(),
                "known": [list(bound) for bound in one.dominance_bounds],
                "judged_by": one.judged_by,
            }
            for one in conditions
        ],
        "under_way": [
            {
                "generation": batch.generation,
                "genomes": [genome.tobytes().hex() for genome in batch.genomes],
                "keys": list(batch.keys),
                "conditions": conditions.index(batch.conditions),
            }
            for batch in state.under_way
        ],
    }


def loop_from_json(data: Mapping[str, Any]) -> LoopState:
    """The state that `loop_to_json` stored, out of data that `schemas.StoredLoop` has validated."""
    conditions = [
        Conditions(
            np.array(one["order"], dtype=np.int64),
            tuple((cost, fitness) for cost, fitness in one["known"]),
            one["judged_by"],
        )
        for one in data["conditions"]
    ]
    return LoopState(
        ImageRecord(np.array(data["wrong_share"])),
        tuple(
            GenomeBatch(
                generation=batch["generation"],
                genomes=tuple(np.frombuffer(bytes.fromhex(genome), dtype=np.uint8) for genome in batch["genomes"]),
                keys=tuple(batch["keys"]),
                conditions=conditions[batch["conditions"]],
            )
            for batch in data["under_way"]
        ),
    )
