"""Training."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from evoprune.config.schema import TrainConfig
from evoprune.data.augmentation import augmented
from evoprune.data.splits import Split
from evoprune.errors import PluginError, TrainingError
from evoprune.networks.seeding import global_seed, mixed_seed
from evoprune.networks.weights import load_weights
from evoprune.space.tensors import named_tensors
from evoprune.tasks.classification import Classification
from evoprune.tasks.judging import loss_of
from evoprune.tasks.task import Task
from evoprune.tasks.trees import Tree, as_floats, moved
from evoprune.training.averaging import WeightAverage
from evoprune.training.distillation import Distillation
from evoprune.training.layout import lay_out_to_train
from evoprune.training.recipe import Recipe
from evoprune.training.sgd import SGD

_MODEL = "model."
_AVERAGE = "average."
_RECIPE = "recipe."
_MOMENTUM = ("momentum.", "momentum_buffer")  # the name of older states, and PyTorch's


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

    tensors: `model.<name>` for the state dict, `average.<name>` for its moving average, `recipe.<name>` for the
        recipe's own state, and `<key>.<name>` for the optimiser's state of each parameter; contiguous, on the CPU.
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
        """The state dict that training has reached: the moving average if there is one, else the model's."""
        return self.part(_AVERAGE) or self.part(_MODEL)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with a prefix, without it."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class _Job:
    """The parts of `fit` that are the same in all steps."""

    model: nn.Module
    split: Split
    train: TrainConfig
    seed: int
    device: torch.device
    recipe: Recipe
    optimiser: torch.optim.Optimizer
    average: WeightAverage | None
    augment: tuple[str, ...]
    distillation: Distillation | None
    task: Task
    layout: torch.memory_format


def fit(
    model: nn.Module,
    split: Split,
    train: TrainConfig,
    seed: int,
    device: torch.device,
    *,
    recipe: Recipe | None = None,
    average_decay: float = 0.0,
    augment: Sequence[str] = (),
    task: Task | None = None,
    distillation: Distillation | None = None,
    masks: Mapping[str, Tensor] | None = None,
    state: FitState | None = None,
    until: int | None = None,
    on_epoch: Callable[[EpochReport, FitState], None] | None = None,
) -> None:
    """Trains the model in place, on `device`, and leaves it there in evaluation mode.

    The loss is the task's, with distillation its weighted mean with the distillation loss. Epoch k draws from
    generators seeded by (seed, k), so it is the same whether training was resumed or not.

    Args:
        model: trained in place.
        split: the training images.
        train: epochs, batch size, learning rate, momentum, weight decay and precision.
        seed: of the order of images, augmentations and dropout.
        device: computes.
        recipe: optimiser, learning rate and update of every step; None: `SGD`.
        average_decay: decay of the moving average of the weights that states have; 0: none.
        augment: names of augmentations.
        task: has the loss; None: classification.
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
    recipe = SGD() if recipe is None else recipe
    optimiser = recipe.optimiser([parameter for parameter in model.parameters() if parameter.requires_grad], train)
    if state is not None:
        _restore(model, recipe, optimiser, state)
    held = hold_at_zero(model, masks or {})
    average = None
    if average_decay:
        average = WeightAverage(model, average_decay, state.part(_AVERAGE) or None if state is not None else None)
    judged, moves = task or Classification(), tuple(augment)
    job = _Job(model, split, train, seed, device, recipe, optimiser, average, moves, distillation, judged, layout)
    first = state.epoch + 1 if state is not None else 1
    last = train.epochs if until is None else min(until, train.epochs)
    for epoch in range(first, last + 1):
        started = time.perf_counter()
        loss = _train_epoch(job, epoch)
        if on_epoch is not None:
            report = EpochReport(epoch, train.epochs, loss, time.perf_counter() - started)
            on_epoch(report, _capture(job, epoch))
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
        read = zip(batches, job.split.batches(batches), strict=True)
        for step, (indices, (images, targets)) in enumerate(read, start=(epoch - 1) * steps_an_epoch):
            rate = job.recipe.learning_rate(step, job.train.epochs * steps_an_epoch, job.train)
            changed = job.recipe.augmented(
                augmented(images, job.augment, generator, job.split.mean, job.split.std), generator
            )
            unchanged = not job.augment and changed is images and job.split.images.same_every_time
            loss = _train_step(job, indices, changed, targets, rate, step, same_every_epoch=unchanged)
            total += len(indices) * loss
    if not all(bool(parameter.isfinite().all()) for parameter in job.model.parameters()):
        raise TrainingError(  # the next step's loss would show it, but there may be no next step
            f"training: the weights are not finite after step {step + 1} with learning rate {rate:.3g}; "
            f"take a learning_rate below {job.train.learning_rate:g}"
        )
    return total / images_in_all


def _train_step(
    job: _Job, indices: Tensor, images: Tensor, targets: Tree, rate: float, step: int, *, same_every_epoch: bool
) -> float:
    """One step of gradient descent. Returns the mean loss of the batch before the step."""
    for group in job.optimiser.param_groups:
        group["lr"] = rate
    images = images.to(job.device, memory_format=job.layout)

    def batch_loss() -> Tensor:
        with torch.autocast(job.device.type, torch.bfloat16, enabled=job.train.precision == "bfloat16"):
            outputs = as_floats(job.model(images))
            loss = loss_of(job.task, outputs, moved(targets, job.device))
            if job.distillation is not None:
                taught = job.distillation.teacher.outputs(indices, images, same_every_epoch)
                loss = job.distillation.loss(job.task, loss, outputs, taught)
        if not loss.isfinite():
            raise TrainingError(
                f"training: the loss is {loss.item()} at step {step + 1} with learning rate {rate:.3g}; "
                f"take a learning_rate below {job.train.learning_rate:g}"
            )
        return loss

    value = job.recipe.update(job.optimiser, batch_loss).item()
    if job.average is not None:
        job.average.update()
    return value


def _capture(job: _Job, epoch: int) -> FitState:
    tensors = {_MODEL + name: tensor for name, tensor in job.model.state_dict().items()}
    for name, parameter in job.model.named_parameters():
        for key, value in job.optimiser.state.get(parameter, {}).items():
            if value is not None and not isinstance(value, Tensor):
                raise PluginError(
                    f"retrain.recipe: the optimiser {type(job.optimiser).__name__} keeps {key} as a "
                    f"{type(value).__name__}, not as a tensor, so that training could not be resumed; take another one"
                )
            if value is not None:
                tensors[_optimiser_prefix(key) + name] = value
    if job.average is not None:
        tensors |= {_AVERAGE + name: tensor for name, tensor in job.average.tensors.items()}
    tensors |= {_RECIPE + name: tensor for name, tensor in job.recipe.state().items()}
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    return FitState(epoch, copies)


def _restore(model: nn.Module, recipe: Recipe, optimiser: torch.optim.Optimizer, state: FitState) -> None:
    load_weights(model, state.part(_MODEL), "training state")
    parameters = dict(model.named_parameters())
    for place, tensor in state.tensors.items():
        prefix, _, name = place.partition(".")
        if prefix + "." not in (_MODEL, _AVERAGE, _RECIPE) and name in parameters:
            key, parameter = _optimiser_key(prefix), parameters[name]
            alike = tensor.shape == parameter.shape and key != "step"  # a number of steps stays on the CPU
            optimiser.state[parameter][key] = torch.empty_like(parameter).copy_(tensor) if alike else tensor.clone()
    if own := state.part(_RECIPE):  # the state before the first epoch has none
        recipe.restore({name: tensor.clone() for name, tensor in own.items()})


def _optimiser_prefix(key: str) -> str:
    prefix, buffer = _MOMENTUM
    return prefix if key == buffer else f"{key}."


def _optimiser_key(prefix: str) -> str:
    older, buffer = _MOMENTUM
    return buffer if f"{prefix}." == older else prefix
