"""The schema of an experiment: frozen sections whose values are valid. `config.loading` makes them from YAML.

Each field carries its description, its unit, the rule that error messages give, and its marks.
"""

from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from evoprune.config.choices import (
    Augmentation,
    Backend,
    Head,
    Precision,
    RecipeChoice,
    RetrainStart,
    SurvivorCompensation,
    TaskChoice,
)
from evoprune.config.fields import Mark, Section, choice, flag, fraction, plugin, positive, section, value, whole
from evoprune.config.search_schema import SearchConfig, SpaceConfig
from evoprune.plugins.kinds import DATASETS, NETWORKS

MOST_CHARACTERS = 1000
MOST_EPOCHS = 10_000
MOST_IMAGES = 10_000_000
MOST_BATCH = 65_536
MOST_RATE = 1000
MOST_DECAY = 100
MOST_GIB = 1_000_000
MOST_SECONDS = 10_000_000

WORKERS = (Mark.MAY_CHANGE, Mark.NO_RESULT)
"""Marks of keys that choose the workers: results do not depend on who scores, or on time limits."""


class DataConfig(Section):
    """The images and their splits."""

    dataset: Annotated[str, AfterValidator(DATASETS.reference)] = value(
        "mnist5k",
        "mnist5k, fashion-mnist, mnist, cifar10, cifar100, svhn, imagefolder, or module:attribute for data of your own",
        "the name of a data set",
        min_length=1,
        max_length=MOST_CHARACTERS,
    )
    root: str | None = value(
        None,
        "folder of the files of the data set; null: its default folder",
        "a folder, or null",
        min_length=1,
        max_length=MOST_CHARACTERS,
        marks=(Mark.NOT_COMPARED,),
    )
    validation: int = whole(
        1000,
        "number of images on which candidates are scored, held out of the training images",
        "images",
        most=MOST_IMAGES,
    )
    calibration: int = whole(
        256,
        "number of training images from which batch-norm statistics, compensation and criteria are computed",
        "images",
        least=2,
        most=MOST_IMAGES,
    )
    augment: tuple[Augmentation, ...] = value(
        (),
        "augmentation of the training images; crop: random crops after padding by an eighth of the height (2 pixels "
        "at 28, 4 at 32); flip: left to right; the others: transforms of torchvision.transforms.v2 with their default "
        "arguments, for pixels from 0 to 1",
        f"a list of any of {', '.join(get_args(Augmentation))}",
    )
    image_size: int | None = whole(
        None, "height and width to which images of an imagefolder are resized; null: not resized", "pixels", most=10_000
    )


class ModelConfig(Section):
    """The network and its weights."""

    network: Annotated[str, AfterValidator(NETWORKS.reference)] = value(
        "16C5-MP2-32C5-MP2-64FC-10",
        "layer string, name of a built-in network, torchvision:NAME, timm:NAME, or module:attribute for a network of "
        "your own",
        "a layer string such as 16C5-MP2-32C5-MP2-64FC-10, or a network's name",
        min_length=1,
        max_length=MOST_CHARACTERS,
    )
    weights: str | None = value(
        None,
        "file with trained weights (safetensors or a state dict), or pretrained for torchvision:NAME and timm:NAME; "
        "null: the network is trained",
        "a file, pretrained, or null",
        min_length=1,
        max_length=MOST_CHARACTERS,
    )
    head: Head = choice(
        "keep",
        "last layer of the network in model.weights; keep: it has the classes of the data, and nothing is trained; "
        "new: it was trained for other classes: tensors of the last layer that differ in shape start anew, and the "
        "network is trained",
        Head,
    )
    ema: bool = flag(
        False, "take the average of the weights (EMA) that the file of model.weights has beside the weights"
    )

    @property
    def is_trained(self) -> bool:
        """Whether the weights are those of a trained network; otherwise the run trains it."""
        return self.weights is not None and self.head == "keep"

    @model_validator(mode="after")
    def _options_of_weights_have_weights(self) -> Self:
        if self.weights is None and self.head == "new":
            raise PydanticCustomError(
                "head_weights", "must have weights with head new, of a network that was trained for other classes"
            )
        if self.weights in (None, "pretrained") and self.ema:
            raise PydanticCustomError("ema_weights", "must have ema false unless weights is a file that has an average")
        return self


class TrainConfig(Section):
    """Training of the baseline if model.weights is null or model.head is new."""

    epochs: int = whole(5, "number of passes over the training images", "epochs", most=MOST_EPOCHS)
    batch_size: int = whole(64, "number of images per step", "images", most=MOST_BATCH)
    learning_rate: float = positive(0.05, "peak learning rate", most=MOST_RATE)
    momentum: float = value(0.9, "Nesterov momentum", "at least 0 and below 1", ge=0, lt=1)
    weight_decay: float = value(
        5e-4, "L2 penalty on the weights", f"a number from 0 to {MOST_DECAY}", ge=0, le=MOST_DECAY
    )
    precision: Precision = choice(
        "float32",
        "number format of products; bfloat16 is faster on processors that have it; weights stay float32",
        Precision,
    )


class WorkersConfig(Section):
    """The workers that score and retrain."""

    backend: Backend = choice(
        "ray", "ray: one actor per worker; serial: in this process, without Ray", Backend, marks=WORKERS
    )
    count: Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] = value(
        "auto",
        "number of workers; auto: one per core or GPU",
        "a whole number from 1 to 10,000, or auto",
        "workers",
        marks=WORKERS,
    )
    address: str | None = value(
        None,
        "address of the Ray cluster to join; null: a local one is started",
        "the address of a cluster, such as auto or host:6379, or null",
        min_length=1,
        max_length=MOST_CHARACTERS,
        marks=WORKERS,
    )
    threads: int = whole(1, "number of threads per worker", "threads", most=1024)
    memory: Annotated[float, Field(gt=0, le=MOST_GIB)] | Literal["auto"] = value(
        "auto",
        "memory per worker; larger networks are scored in smaller batches; auto: a share of the machine's memory",
        f"a number above 0 and at most {MOST_GIB:,} (GiB), or auto",
        "GiB",
        marks=(Mark.MAY_CHANGE,),
    )
    gram_memory: Annotated[float, Field(gt=0, le=MOST_GIB)] | Literal["auto"] = value(
        "auto",
        "memory for the compensation statistics, which the workers of a machine share; layers that do not fit are not "
        "compensated; auto: a share of the machine's memory",
        f"a number above 0 and at most {MOST_GIB:,} (GiB), or auto",
        "GiB",
    )
    timeout_s: Annotated[float, Field(gt=0, le=MOST_SECONDS)] | None = value(
        None,
        "time limit for scoring a candidate, after which its worker is ended and the candidate is tried again, up to "
        "three times in all (backend ray); null: no limit",
        f"a number above 0 and at most {MOST_SECONDS:,} (seconds), or null",
        "seconds",
        marks=WORKERS,
    )
    epoch_timeout_s: Annotated[float, Field(gt=0, le=MOST_SECONDS)] | None = value(
        None,
        "time limit for an epoch of retraining, in the same way",
        f"a number above 0 and at most {MOST_SECONDS:,} (seconds), or null",
        "seconds",
        marks=WORKERS,
    )


class RetrainConfig(Section):
    """Choice and retraining of survivors."""

    survivors: int = whole(3, "number of survivors chosen from the front and retrained", "survivors", most=10_000)
    epochs: int = whole(
        2, "number of passes over the training images; 0: no retraining", "epochs", least=0, most=MOST_EPOCHS
    )
    learning_rate: float = positive(0.02, "peak learning rate", most=MOST_RATE)
    batch_size: int = whole(64, "number of images per step", "images", most=MOST_BATCH)
    momentum: float = value(0.9, "Nesterov momentum", "at least 0 and below 1", ge=0, lt=1)
    weight_decay: float = value(
        5e-4, "L2 penalty on the weights", f"a number from 0 to {MOST_DECAY}", ge=0, le=MOST_DECAY
    )
    precision: Precision = choice(
        "float32",
        "number format of products; bfloat16 is faster on processors that have it; weights stay float32",
        Precision,
    )
    distillation: float = fraction(
        0.5,
        "share of the distillation loss, with the unpruned baseline as teacher; the rest is the loss on labels; 0: no "
        "distillation",
        "0.9 is nine tenths",
    )
    temperature: float = positive(4.0, "temperature of the softened outputs in distillation", most=1000)
    start: RetrainStart = choice(
        "keep",
        "weights at the start of retraining; keep: those after search and compensation; rewind_weights: those of the "
        "baseline retrain.epochs before the end of its training, with the learning rates of those epochs; "
        "rewind_learning_rate: those of the trained baseline, with the same learning rates; anew: fresh random weights",
        RetrainStart,
    )
    compensation: SurvivorCompensation = choice(
        "sequential",
        "compensation before retraining with start keep; sequential: layer by layer on the activations of the pruned "
        "network, if that reduces the errors; search: as in the search",
        SurvivorCompensation,
    )
    recipe: RecipeChoice = plugin(
        "sgd",
        "optimiser and learning rates; sgd: stochastic gradient descent with Nesterov momentum; adamw: AdamW; both "
        "with a linear warm-up, then half a cosine; module:attribute: an ep.Recipe of your own",
        RecipeChoice,
    )
    ema: float = value(
        0.0,
        "decay per step of an exponential moving average of the weights, which survivors then have; 0: no average",
        "at least 0 and below 1 (0.99 averages over about 100 steps)",
        ge=0,
        lt=1,
    )


class RecordConfig(Section):
    """Files besides tables and networks."""

    report: bool = flag(True, "draw plots (plots/) and write report.html at the end")
    tensorboard: bool = flag(False, "write scalars for TensorBoard (tensorboard/); needs the package extra tensorboard")


class Config(Section):
    """One experiment."""

    name: str = value(
        ...,
        "name of the run, and of its folder in results/",
        "up to 100 letters, digits, '.', '_' and '-', with a letter or digit first",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        marks=(Mark.NOT_COMPARED, Mark.OUTSIDE_SEARCH),
    )
    seed: int = value(
        0,
        "seed of all random numbers",
        "a whole number from 0 to 4294967295",
        marks=(Mark.NOT_COMPARED,),
        ge=0,
        le=2**32 - 1,
    )
    device: str = value(
        "auto",
        "device of the networks; auto: the first GPU, or the CPU",
        "auto, cpu, cuda or cuda:N",
        pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$",
        marks=(Mark.MAY_CHANGE, Mark.NOT_COMPARED, Mark.SAME_IN_SWEEP),
    )
    task: TaskChoice = plugin(
        "classification",
        "worth of the network's outputs: loss, errors, and divergence from the unpruned network; binary: one logit; "
        "multilabel: a logit for each label; segmentation: a class for each pixel; regression: numbers; like_teacher: "
        "no labels, the outputs of the unpruned network are the targets",
        TaskChoice,
    )
    task_options: dict[str, bool | int | float | str | None] | None = value(
        None,
        "options of the task by name: ignore_index (segmentation): class of pixels that do not count; tolerance "
        "(like_teacher): difference from which an output counts as wrong; null: none",
        "a mapping of names to values, such as {ignore_index: 255}, or null",
        max_length=100,
    )
    data: DataConfig = section(DataConfig(), "images and their splits")
    model: ModelConfig = section(ModelConfig(), "network and weights")
    train: TrainConfig = section(TrainConfig(), "training of the baseline")
    space: SpaceConfig = section(SpaceConfig(), "parts that may be removed")
    search: SearchConfig = section(SearchConfig(), "search over candidates")
    workers: WorkersConfig = section(
        WorkersConfig(), "scoring of candidates", marks=(Mark.NOT_COMPARED, Mark.SAME_IN_SWEEP)
    )
    retrain: RetrainConfig = section(RetrainConfig(), "retraining of survivors", marks=(Mark.MAY_CHANGE,))
    record: RecordConfig = section(
        RecordConfig(),
        "files besides tables and networks",
        marks=(Mark.MAY_CHANGE, Mark.NO_RESULT, Mark.NOT_COMPARED),
    )

    @property
    def rewind_epoch(self) -> int:
        """The number of epochs of baseline training after which rewound survivors are retrained."""
        return self.train.epochs - self.retrain.epochs

    @model_validator(mode="after")
    def _a_ranking_is_of_feature_maps(self) -> Self:
        if self.search.algorithm == "ranking" and (self.space.kernels or self.space.strides):
            raise PydanticCustomError(
                "ranking_masks",
                "search.algorithm must not be ranking with space.kernels or space.strides, because it ranks only "
                "feature maps; use widths, or set both to false",
            )
        return self

    @model_validator(mode="after")
    def _there_is_something_to_rewind_to(self) -> Self:
        start = self.retrain.start
        if start.startswith("rewind") and self.rewind_epoch < 0:
            raise PydanticCustomError(
                "rewind_epochs",
                "retrain.epochs must be at most train.epochs ({most}) with retrain.start {start}, not {epochs}",
                {"most": self.train.epochs, "start": start, "epochs": self.retrain.epochs},
            )
        if start == "rewind_weights" and self.model.is_trained:
            raise PydanticCustomError(
                "rewind_given",
                "model.weights must be null with retrain.start rewind_weights (weights of an early epoch exist only if "
                "the network is trained here), not {weights}; use rewind_learning_rate with given weights",
                {"weights": self.model.weights},
            )
        return self
