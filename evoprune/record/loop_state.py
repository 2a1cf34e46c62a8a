"""Where a search's loop stands, as plain JSON data for its snapshot, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from evoprune.scoring.conditions import Conditions, ImageRecord
from evoprune.search.loop import GenomeBatch, LoopState


def loop_to_json(state: LoopState) -> dict[str, Any]:
    """Conditions that several parts share are there once."""
    conditions = list(dict.fromkeys(part.conditions for part in state.under_way))
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
                "generation": part.generation,
                "genomes": [genome.tobytes().hex() for genome in part.genomes],
                "keys": list(part.keys),
                "conditions": conditions.index(part.conditions),
            }
            for part in state.under_way
        ],
    }


def loop_from_json(data: Mapping[str, Any]) -> LoopState:
    """The state that `loop_to_json` made this of."""
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
                generation=part["generation"],
                genomes=tuple(np.frombuffer(bytes.fromhex(genome), dtype=np.uint8) for genome in part["genomes"]),
                keys=tuple(part["keys"]),
                conditions=conditions[part["conditions"]],
            )
            for part in data["under_way"]
        ),
    )
