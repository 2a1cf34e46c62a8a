"""A criterion of one's own: a plain function in a file of one's own.

    python experiments/own_criterion.py

In a config it is `search: {criterion: "own_criterion:sensitivity"}`, if the folder of this file is where Python looks
for modules (the current directory is).
"""

import numpy as np

import evoprune as ep


def sensitivity(context: ep.CriterionContext) -> np.ndarray:
    """|sum over a map's weights of weight x gradient|: to first order, the change of the loss if the map goes."""
    gradients, space = context.gradients(), context.space
    weights = context.model.state_dict()
    values = np.zeros(space.maps)
    for layer in space.layers:
        gene = space.genes_along(layer.weight, layer.out_dim)  # of each output map; -1 for maps that stay
        if gene is not None:
            product = (weights[layer.weight].double() * gradients[layer.weight]).movedim(layer.out_dim, 0)
            np.add.at(values, gene[gene >= 0], product.flatten(1).sum(1).numpy()[gene >= 0])
    return np.abs(values)


sensitivity.needs_labels = True  # type: ignore[attr-defined]  # gradients are of the loss


if __name__ == "__main__":
    run = ep.run(
        "experiments/quickstart.yaml",
        overrides={"search.criterion": "own_criterion:sensitivity"},
        out="results/own_criterion",
    )
    print(run.survivors[["key", "macs_ratio", "mcr_test", "baseline_mcr_test"]].to_string(index=False))
