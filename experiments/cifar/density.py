"""Density of the gradient at Xavier's initial values: Bernstein et al., Figure A.2.

Multilayer perceptrons on vectors and convolutional networks on images, each at several
initial points, with the gradient of all the examples that are asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import field
from typing import Any, ClassVar, Literal, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments import _plots, data, models
from experiments._checks import check_positive, check_seeds, check_some
from experiments._claims import Claim
from experiments._registry import StudyError
from experiments._results import Results, count_text, spread, table
from experiments.cifar._full_pass import FullPass, densities
from experiments.cifar._images import normalize
from experiments.cifar._resume import each, read_part
from experiments.cifar._xavier import xavier

Source = Literal["digits", "mnist", "cifar10", "cifar100", "synthetic"]
VECTORS = ("digits", "mnist")
PERCEPTRON = "mlp"

CLAIM = Claim(
    "dense_at_init", "B", "Figure A.2",
    "The full gradient at a point provided by the Xavier initialiser is remarkably "
    "dense in all cases, over a range of datasets and architectures.",
    "φ(g), all parameters one vector, mean over seeds, is at least {dense:g} for every "
    "network on every data set",
    reduced="convolutional networks see the gradient of the first 128 to 2,048 images "
    "of CIFAR-10, not of all; no ImageNet",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Measures the density of gradients at initial values."""

    CLAIMS: ClassVar[tuple[Claim, ...]] = (CLAIM,)

    datasets: tuple[str, ...] = field(
        default=("digits", "mnist", "cifar10"),
        metadata={"help": f"some of {', '.join(get_args(Source))}"},
    )
    models: tuple[str, ...] = field(
        default=(PERCEPTRON, "resnet8", "resnet20", "resnet18", "vgg19"),
        metadata={"help": f"some of {PERCEPTRON}, {', '.join(models.MODELS)}; on "
                          f"digits and mnist {PERCEPTRON} alone"})
    images: dict[str, int] = field(
        default_factory=lambda: {
            "resnet8": 2048, "resnet20": 1024, "resnet18": 128, "vgg19": 128},
        metadata={"help": "only the first so many, by model; 0 or not there: all"},
    )
    widths: tuple[int, ...] = field(
        default=(128, 64), metadata={"help": f"of the hidden layers of {PERCEPTRON}"}
    )
    batch_size: int = field(default=128, metadata={
        "help": "over which batch normalisation takes its statistics; a rest that "
                "fills no batch is left out"})
    seeds: tuple[int, ...] = field(
        default=(1, 2, 3), metadata={"help": "of the initial values"}
    )
    data_dir: str | None = field(default=None, metadata={
        "help": "where CIFAR's files are; none: download", "place": True})
    mnist_dir: str | None = field(default=None, metadata={
        "help": "where MNIST's files are; none: download", "place": True})
    note: str = field(default="", metadata={"help": "on the data, for the summary"})
    dense: float = field(default=0.1, metadata={
        "help": "the least density that counts as dense"})
    part: str = field(default="0/1", metadata={
        "help": "i/n: run only each n-th measurement, from the i-th on, and no summary",
        "place": True})
    results: str = field(default="results", metadata={"help": "where files go"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        check_some("datasets", self.datasets, get_args(Source))
        for name in {*self.models, *self.images} - {PERCEPTRON}:
            models.build(name, 10)
        check_seeds(self.seeds)
        check_positive(self, "batch_size")
        read_part(self.part)
        if not self.cases():
            raise ValueError(
                f"models must have {PERCEPTRON} for {' and '.join(self.datasets)}; got "
                f"{', '.join(self.models) or 'none'}."
            )
        used = {case.model for case in self.cases()}
        small = {name: count for name, count in self.images.items()
                 if name in used and 0 != count < self.batch_size}
        if small:
            raise ValueError(
                f"images must be 0 or at least batch_size, {self.batch_size}; got "
                f"{small}."
            )

    def cases(self) -> list[Case]:
        """Returns what to measure, cheap ones first."""
        return [
            Case(dataset, model, seed)
            for dataset in self.datasets for model in self.models
            if dataset not in VECTORS or model == PERCEPTRON
            for seed in self.seeds
        ]


class Case(NamedTuple):
    """One network at one point."""

    dataset: str
    model: str
    seed: int

    @property
    def label(self) -> str:
        """How it is called in the figure."""
        return f"{self.model} on {self.dataset}"


class Lab:
    """Data and compiled passes, of one network on one data set at a time."""

    def __init__(self, config: Config):
        self._config = config
        self._now: tuple[str, str] | None = None

    def measure(self, case: Case, tick: Callable[[], Any]) -> dict[str, Any]:
        """Measures at one point; returns the values of its line."""
        if self._now != case[:2]:
            self._now = case[:2]
            self._open(case)
        config, count = self._config, len(self._labels)
        variables = self._start(case.seed)
        params, batch_stats = variables["params"], variables.get("batch_stats")
        size = config.batch_size
        rng = np.random.default_rng(case.seed)
        order = rng.permutation(count)[: count // size * size].astype(np.int32)
        batches, found = order.reshape(-1, size), []
        for several in (batches[:1], batches):
            # The gradient of a single batch tells how much the number of images does.
            welford, _ = self._pass(
                params, batch_stats, self._inputs, self._labels, several,
                jax.random.key(0),
            )
            found.append(densities(welford))
            if len(batches) == 1:
                found *= 2
                break
        tick()
        return {
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
            "images": len(order), "one_batch": float(found[0].gradient),
        } | found[1].plain()

    def _open(self, case: Case) -> None:
        config = self._config
        inputs, labels, classes = self._load(case)
        network: nn.Module
        if case.model == PERCEPTRON:
            network = models.MLP(config.widths, classes)
        else:
            network = models.build(case.model, classes)
        count = config.images.get(case.model, 0) or len(labels)
        if not config.batch_size <= count <= len(labels):
            raise StudyError(
                f"{case.dataset} has {len(labels)} examples to train on, and {count} "
                f"are asked for with batches of {config.batch_size}."
            )
        self._inputs, self._labels = inputs[:count], labels[:count]

        def prepare(key: Any, x: Any) -> Any:
            del key
            if x.dtype == jnp.uint8:
                x = normalize(x)
            return x.reshape(len(x), -1) if case.model == PERCEPTRON else x

        self._pass = FullPass(network, prepare)
        shapes = jax.eval_shape(
            lambda: network.init(jax.random.key(0), prepare(None, inputs[:1]))
        )
        self._start = jax.jit(lambda seed: xavier(jax.random.key(seed), shapes))

    def _load(self, case: Case) -> tuple[Any, Any, int]:
        """Returns inputs, labels and the number of classes."""
        config = self._config
        if case.dataset in VECTORS:
            vectors = data.standardize(data.load(case.dataset, config.mnist_dir, 0))
            return jnp.asarray(vectors.x_train), jnp.asarray(vectors.y_train), 10
        if case.dataset == "synthetic":
            images = data.synthetic_images(512, 1)
        else:
            name = cast(Literal["cifar10", "cifar100"], case.dataset)
            images = data.load_cifar(name, config.data_dir)
        x, y = jnp.asarray(images.x_train), jnp.asarray(images.y_train)
        return x, y, images.classes


def run(config: Config) -> dict[Case, dict[str, Any]]:
    """Measures, tabulates and draws; returns every measurement."""
    results = Results(config.results, "density_at_init", config, resume=True)
    done = each(results, config.cases(), config.part, Lab(config).measure)
    groups: dict[str, list[dict[str, Any]]] = {}
    for case, line in done.items():
        groups.setdefault(case.label, []).append(line)
    means = {
        label: float(np.mean([line["gradient"] for line in lines]))
        for label, lines in groups.items()
    }
    sparse = {label: mean for label, mean in means.items() if not mean >= config.dense}
    least = min(means, key=lambda label: means[label])
    values = [line["gradient"] for line in groups[least]]
    results.verdict(
        "dense_at_init", not sparse,
        f"least for {least}, {spread(values, 3)}; greatest {max(means.values()):.3f}",
        "" if not sparse else
        "sparser are " + ", ".join(f"{n} ({m:.3f})" for n, m in sparse.items())
        + "; layer by layer the gradients are dense where the table says so, but "
        "their scales differ from layer to layer",
    )
    results.figure(_figure(config, groups))
    results.finish(_summary(config, groups))
    return done


def _summary(config: Config, groups: dict[str, list[dict[str, Any]]]) -> str:
    """Returns what was measured, and the table."""
    rows = [
        [label, str(lines[0]["parameters"]), str(lines[0]["images"]),
         *(spread([float(np.array(line[name], float)) for line in lines], 3)
           for name in ("gradient", "layerwise", "one_batch")),
         f"{1 / lines[0]['parameters']:.1e}"]
        for label, lines in groups.items()
    ]
    header = ["network and data", "parameters", "examples", "φ(g)", "layer-wise",
              "of one batch", "least possible"]
    note = f" CIFAR-10: {config.note}." if config.note else ""
    return (
        "Density of the gradient at Xavier's initial values (uniform, Glorot and "
        f"Bengio), {count_text(len(config.seeds), 'seed')}, mean ± standard "
        "deviation. "
        f"{PERCEPTRON} has hidden layers of {', '.join(map(str, config.widths))}. "
        "Inputs are normalised and not augmented, batch normalisation is by batches "
        f"of {config.batch_size}, the examples are the first of the training part."
        f"{note}\n\n{table(header, rows)}\n\n"
        "φ(g): all parameters one vector. Layer-wise: Lemma 8's ratio of Karimireddy "
        "et al., each tensor with a scale of its own. Of one batch: φ of the gradient "
        f"of {config.batch_size} examples."
    )


def _figure(config: Config, groups: dict[str, list[dict[str, Any]]]) -> Any:
    """Draws the densities, a row for each network and data set."""
    figure, ((axis,),) = _plots.grid(1, 1, 7.2, 1.4 + 0.42 * len(groups))
    rows = np.arange(len(groups))[::-1]
    for number, marker, name, label in (
        (1, "o", "gradient", "φ(g)"), (2, "s", "layerwise", "layer-wise ratio")
    ):
        for row, lines in zip(rows, groups.values(), strict=True):
            values = [line[name] for line in lines]
            axis.plot(values, [row + 0.1 - 0.2 * (number == 2)] * len(values), marker,
                      color=_plots.COLORS[number], markersize=5, alpha=0.8,
                      label=label if row == rows[0] else None)
    axis.axvline(config.dense, color="grey", linewidth=0.8, linestyle=":")
    axis.axvline(2 / np.pi, color="grey", linewidth=0.8, linestyle="--")
    axis.set(
        xlim=(0, 1), yticks=rows, yticklabels=list(groups), ylim=(-0.6, rows[0] + 0.6),
        xlabel="density at Xavier's initial values, a point for each seed\n(dotted: "
               "the criterion; dashed: 2/π, of Gaussian vectors)",
    )
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure
