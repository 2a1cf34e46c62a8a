"""The exponential moving average of a network's weights during training."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of a network's weights and batch-norm statistics over the steps, recent ones weighted most.

    References:
        Polyak and Juditsky 1992; Tarvainen and Valpola 2017, eq. 1 (exponential).
    """

    def __init__(self, model: nn.Module, decay: float, tensors: Mapping[str, Tensor] | None = None):
        """Starts with the present weights, or continues.

        Args:
            model: the network that is trained, on its device.
            decay: the factor, 0..1, of the average before a step; the weights after the step have the rest.
            tensors: the average so far, by the names of the state dict.
        """
        self._model = model
        self._decay = decay
        present = model.state_dict()
        self.tensors = {
            name: tensor.detach().clone() if tensors is None else tensors[name].to(tensor.device, copy=True)
            for name, tensor in present.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights after a step. Counters, which are whole numbers, are as in the network."""
        for name, tensor in self._model.state_dict().items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, 1 - self._decay)
            else:
                self.tensors[name].copy_(tensor)
