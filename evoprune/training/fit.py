"""Training."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from evoprune.config.schema import TrainConfig
from evoprune.data.augmentation import augmented
from evoprune.data.splits import Split
from evoprune.errors import TrainingError
from evoprune.networks.seeding import global_seed, mixed_seed
from evoprune.networks.weights import load_weights
from evoprune.space.tensors import named_tensors
from evoprune.training.distillation import Distillation
from evoprune.training.layout import lay_out_to_train

_WARM_UP = 0.1
_MODEL = "model."
_MOMENTUM = "momentum."


@dataclass(frozen=True)
class EpochReport:
    """One epoch of training. epoch: 1..epochs. loss: mean over the images of the epoch. seconds: its time."""

    epoch: int
    epochs: int
    loss: float
    seconds: float


@dataclass(frozen=True, eq=False)
class FitState:
    """The state of training after `epoch` epochs. Training that resumes from it is exactly as if never interrupted.

    tensors: `model.<name>` for the state dict, `momentum.<name>` for the optimiser; contiguous, on the CPU.
    """

    epoch: int
    tensors: dict[str, Tensor]

    @classmethod
    def before(cls, model: nn.Module) -> "FitState":
        """The state before the first epoch, with copies of the model's weights."""
        copies = {_MODEL + name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        return cls(0, {name: tensor.contiguous() for name, tensor in copies.items()})

    @property
    def weights(self) -> dict[str, Tensor]:
        """The model's state dict."""
        return {name.removeprefix(_MODEL): tensor for name, tensor in self.tensors.items() if name.startswith(_MODEL)}


@dataclass(frozen=True)
class _Job:
    """The parts of `fit` that are the same in all steps."""

    model: nn.Module
    split: Split
    train: TrainConfig
    seed: int
    device: torch.device
    optimiser: torch.optim.SGD
    augment: tuple[str, ...]
    distillation: Distillation | None
    layout: torch.memory_format


def fit(
    model: nn.Module,
    split: Split,
    train: TrainConfig,
    seed: int,
    device: torch.device,
    *,
    augment: Sequence[str] = (),
    distillation: Distillation | None = None,
    masks: Mapping[str, Tensor] | None = None,
    state: FitState | None = None,
    until: int | None = None,
    on_epoch: Callable[[EpochReport, FitState], None] | None = None,
) -> None:
    """Trains the model in place, on `device`, and leaves it there in evaluation mode.

    Stochastic gradient descent with Nesterov momentum, at the learning rate of `learning_rate_at`. The loss is the
    cross entropy, with distillation its weighted mean with the distillation loss. Epoch k draws from generators seeded
    by (seed, k), so it is the same whether training was resumed or not.

    Args:
        model: trained in place.
        split: the training images.
        train: epochs, batch size, learning rate, momentum, weight decay and precision.
        seed: of the order of images, augmentations and dropout.
        device: computes.
        augment: names in `AUGMENTATIONS`.
        distillation: its teacher was made for the same split.
        masks: bool, by the parameter's name. Weights whose mask is False are zero and stay zero, as do their gradients
            and momentum.
        state: resumes from there; None: starts from the model's weights.
        until: the epoch after which training stops; None: the last of the schedule.
        on_epoch: called after each epoch with its report and the state to resume from.

    Raises:
        TrainingError: if the loss or a weight is not finite.
        NetworkError: if `state` is of another network.
    """
    model.to(device)
    layout = lay_out_to_train(model, split.batch(torch.arange(min(2, len(split))))[0].to(device))
    optimiser = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=train.learning_rate,
        momentum=train.momentum,
        weight_decay=train.weight_decay,
        nesterov=train.momentum > 0,
    )
    if state is not None:
        _restore(model, optimiser, state)
    job = _Job(model, split, train, seed, device, optimiser, tuple(augment), distillation, layout)
    held = hold_at_zero(model, masks or {})
    first = state.epoch + 1 if state is not None else 1
    last = train.epochs if until is None else min(until, train.epochs)
    for epoch in range(first, last + 1):
        started = time.perf_counter()
        loss = _train_epoch(job, epoch)
        if on_epoch is not None:
            report = EpochReport(epoch, train.epochs, loss, time.perf_counter() - started)
            on_epoch(report, _capture(model, optimiser, epoch))
    for handle in held:
        handle.remove()
    model.to(memory_format=torch.contiguous_format)
    model.eval()


def hold_at_zero(model: nn.Module, masks: Mapping[str, Tensor]) -> list[RemovableHandle]:
    """Sets masked weights to zero and their gradients too, so that no step, momentum or weight decay moves them.

    Args:
        model: changed in place.
        masks: bool, by the parameter's name; False for pruned weights.

    Returns:
        Handles whose `remove()` lets gradients reach the weights again.
    """
    handles = []
    tensors = dict(named_tensors(model))
    for name, mask in masks.items():
        parameter = tensors[name]
        goes = ~mask.to(parameter.device)
        with torch.no_grad():
            parameter.masked_fill_(goes, 0)
        if parameter.requires_grad:
            handles.append(parameter.register_hook(lambda gradient, goes=goes: gradient.masked_fill(goes, 0)))
    return handles


def learning_rate_at(step: int, steps: int, highest: float) -> float:
    """The learning rate of a step: linear warm-up over the first tenth of the steps, then half a cosine towards zero.

    It depends on the number of the step alone, which makes training resumable.

    Args:
        step: 0..steps-1.
        steps: of the whole training.
        highest: the learning rate at the end of the warm-up.

    References:
        Goyal et al. 2017, section 2.2 (warm-up); Loshchilov and Hutter 2017, eq. 5 (cosine).
    """
    warm_up = max(1, round(_WARM_UP * steps))
    if step < warm_up:
        return highest * (step + 1) / warm_up
    return highest * 0.5 * (1 + math.cos(math.pi * (step - warm_up + 1) / (steps - warm_up + 1)))


def _train_epoch(job: _Job, epoch: int) -> float:
    """One pass over the split. Returns the mean loss of its images."""
    generator = torch.Generator().manual_seed(mixed_seed(job.seed, epoch, 0))
    images_in_all = len(job.split)
    steps_an_epoch = math.ceil(images_in_all / job.train.batch_size)
    # Batches of even sizes: a last batch of a single image would have no batch-norm statistics.
    batches = torch.randperm(images_in_all, generator=generator).tensor_split(steps_an_epoch)
    total = 0.0
    job.model.train()
    with global_seed(mixed_seed(job.seed, epoch, 1), job.device):  # dropout draws from the global generator
        for step, indices in enumerate(batches, start=(epoch - 1) * steps_an_epoch):
            rate = learning_rate_at(step, job.train.epochs * steps_an_epoch, job.train.learning_rate)
            images, labels = job.split.batch(indices)
            images = augmented(images, job.augment, generator)
            total += len(indices) * _train_step(job, indices, images, labels, rate, step)
    if not all(bool(parameter.isfinite().all()) for parameter in job.model.parameters()):
        raise TrainingError(  # the next step's loss would show it, but there may be no next step
            f"training: the weights are not finite after step {step + 1} with learning rate {rate:.3g}; "
            f"take a learning_rate below {job.train.learning_rate:g}"
        )
    return total / images_in_all


def _train_step(job: _Job, indices: Tensor, images: Tensor, labels: Tensor, rate: float, step: int) -> float:
    """One step of gradient descent. Returns the mean loss of the batch before the step."""
    for group in job.optimiser.param_groups:
        group["lr"] = rate
    job.optimiser.zero_grad()
    images = images.to(job.device, memory_format=job.layout)
    with torch.autocast(job.device.type, torch.bfloat16, enabled=job.train.precision == "bfloat16"):
        logits = job.model(images).float()  # (b, classes)
        loss = functional.cross_entropy(logits, labels.to(job.device))
        if job.distillation is not None:
            taught = job.distillation.teacher.logits(indices, images, same_every_epoch=not job.augment)
            loss = job.distillation.loss(loss, logits, taught)
    value = loss.item()
    if not math.isfinite(value):
        raise TrainingError(
            f"training: the loss is {value} at step {step + 1} with learning rate {rate:.3g}; "
            f"take a learning_rate below {job.train.learning_rate:g}"
        )
    loss.backward()
    job.optimiser.step()
    return value


def _capture(model: nn.Module, optimiser: torch.optim.SGD, epoch: int) -> FitState:
    tensors = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        momentum = optimiser.state.get(parameter, {}).get("momentum_buffer")
        if momentum is not None:
            tensors[_MOMENTUM + name] = momentum
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    return FitState(epoch, copies)


def _restore(model: nn.Module, optimiser: torch.optim.SGD, state: FitState) -> None:
    load_weights(model, state.weights, "training state")
    for name, parameter in model.named_parameters():
        momentum = state.tensors.get(_MOMENTUM + name)
        if momentum is not None:
            optimiser.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
