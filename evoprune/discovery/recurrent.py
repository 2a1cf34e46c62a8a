"""Rules for recurrent layers (RNN, LSTM, GRU and their cells): maps that they read can be removed, hidden units stay.

PyTorch computes them as linear layers, step by step, which the rules of single operations follow. Layers and directions
of one module share a single number of hidden units, so the units stay whole.
"""

import torch
from torch import nn

from evoprune.discovery.data_moves import Shadow
from evoprune.discovery.labels import CONSTANT
from evoprune.discovery.tracing import Call, Tracer


def freeze_hidden_units(tracer: Tracer, network: nn.Module) -> None:
    """Keeps the hidden units of all recurrent layers whole, for one reason that holds wherever they go."""
    for name, module in network.named_modules():
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            for parameter, tensor in module.named_parameters(prefix=name, recurse=False):
                if tensor.ndim == 2:
                    units = tracer.output_labels(parameter, 0, len(tensor))
                    tracer.freeze(units, "the hidden units of a recurrent layer stay whole")


def packing(tracer: Tracer, call: Call) -> Shadow:
    """Sequences of different lengths in one tensor (steps, maps): maps lie along the last dimension, as before."""
    maps = tracer.along(call.inputs["input"], -1)
    return [maps.expand(call.outputs[0].shape), torch.tensor(CONSTANT).expand(call.outputs[1].shape)]
