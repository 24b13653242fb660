"""The studies, by name; nothing is imported until one runs."""

from __future__ import annotations

import difflib
import importlib
from typing import Any, NamedTuple


class Study(NamedTuple):
    """Where a study is, and what it shows.

    Attributes:
      module: has `run`, and the configuration.
      description: in one line.
      config: the name of the configuration's class in the module.
      group: of which the list speaks together.
    """

    module: str
    description: str
    config: str = "Config"
    group: str = "tools and first steps"


NETWORKS = "the papers: networks"

STUDIES = {
    "quickstart": Study(
        "experiments.quickstart",
        "six optimizers train a small network on handwritten digits with 4 workers",
    ),
    "adversaries": Study(
        "experiments.adversaries",
        "majority vote while some of nine workers send the opposite of their gradient",
    ),
    "majority_vote": Study(
        "experiments.voting",
        "majority vote with 1 to 15 workers, with adversaries, and bit for bit",
        group=NETWORKS,
    ),
    "bench_update": Study(
        "experiments.bench_update",
        "time, memory and compile time of one update of 25.6M parameters",
    ),
    "bench_wire": Study(
        "experiments.bench_wire",
        "bytes and time of synchronising 25.6M gradients between processes",
    ),
    "bench_cifar": Study(
        "experiments.cifar.bench",
        "time of a training step against the same with SGD and the update alone",
    ),
    "cifar": Study(
        "experiments.cifar.comparison",
        "networks on CIFAR with the optimizers of the papers, as the options say",
        group=NETWORKS,
    ),
    "cifar_small": Study(
        "experiments.cifar.comparison",
        "a small ResNet on 5,000 images of CIFAR-10 at batches of 128, 32 and 8",
        config="Small", group=NETWORKS,
    ),
    "cifar_tune": Study(
        "experiments.cifar.tune", "the learning rate of each algorithm from a grid",
        group=NETWORKS,
    ),
    "cifar_resnet20": Study(
        "experiments.cifar.comparison",
        "ResNet-20 on all of CIFAR-10 for 8 epochs: the densities of Figure 2",
        config="Resnet20", group=NETWORKS,
    ),
    "cifar100_resnet18": Study(
        "experiments.cifar.comparison",
        "ResNet-18 on CIFAR-100 for 200 epochs, for accelerators",
        config="Resnet18", group=NETWORKS,
    ),
    "cifar_noise": Study(
        "experiments.cifar.noise",
        "density of gradient and noise at every epoch, noise of single parameters",
        group=NETWORKS,
    ),
    "cifar_noise_resnet20": Study(
        "experiments.cifar.noise",
        "the same for ResNet-20 on all of CIFAR-10 for 160 epochs, for accelerators",
        config="Resnet20", group=NETWORKS,
    ),
    "density_at_init": Study(
        "experiments.cifar.density",
        "density of the gradient at initial values: digits, MNIST, CIFAR, 5 networks",
        group=NETWORKS,
    ),
    "cifar_grid": Study(
        "experiments.cifar.grid",
        "learning rates and weight decays on a grid for SGD, Signum and Adam",
        group=NETWORKS,
    ),
    "imagenet": Study(
        "experiments.imagenet",
        "ResNet-50 v2 on ImageNet with Signum: a configuration, not run",
        group=NETWORKS,
    ),
    "cifar10_vgg19": Study(
        "experiments.cifar.comparison",
        "VGG19 on CIFAR-10 for 200 epochs, for accelerators",
        config="Vgg19", group=NETWORKS,
    ),
    "counterexamples": Study(
        "experiments.toys.counterexamples",
        "where signSGD cannot converge, and with error feedback it does",
        group="the papers: toy problems",
    ),
    "least_squares": Study(
        "experiments.toys.least_squares",
        "which solution of over-parameterised least squares each method finds",
        group="the papers: toy problems",
    ),
    "sparse_noise": Study(
        "experiments.toys.sparse_noise",
        "a quadratic with all its noise in one of a hundred coordinates",
        group="the papers: toy problems",
    ),
    "error_feedback": Study(
        "experiments.error_feedback",
        "what error feedback keeps, what a scaled sign loses, and top-1 with feedback",
        group="the papers: theory",
    ),
    "rosenbrock": Study(
        "experiments.toys.rosenbrock",
        "signSGD on the Rosenbrock function, with exact success probabilities",
        group="the papers: toy problems",
    ),
    "level_sets": Study(
        "experiments.toys.level_sets",
        "level sets and unit balls of the l^(1,2) norm, measured",
        group="the papers: toy problems",
    ),
    "mnist": Study(
        "experiments.mnist",
        "signSGD and SGD on standard and split batches of MNIST, by megabytes sent",
        group=NETWORKS,
    ),
    "distributed": Study(
        "experiments.distributed",
        "training over processes with checkpoints, under `launch` or on a cluster",
    ),
    "rates_feedback": Study(
        "experiments.rates.feedback",
        "Karimireddy et al.: Theorems II and III, Remarks 4 to 6, Lemma 3, measured",
        group="the papers: theory",
    ),
    "rates_sign": Study(
        "experiments.rates.sign",
        "Bernstein et al.: Theorems 1 to 3 and C.1, Lemma D.1, Remark 3, measured",
        group="the papers: theory",
    ),
    "rates_stochastic": Study(
        "experiments.rates.stochastic",
        "Safaryan and Richtárik: Theorems 1 to 3 and 6, lemmas, appendices D and E",
        group="the papers: theory",
    ),
}

# What is no study: it has no results of its own.
COMMANDS = {
    "publish": Study(
        "experiments.publish",
        "publish NAME...: copies results of studies to experiments/published",
        group="commands",
    ),
    "report": Study(
        "experiments.report",
        "what the papers claim and what came out here, as one page of all results",
        group="commands",
    ),
    "launch": Study(
        "experiments.launch",
        "launch -n N -- COMMAND...: runs a command as N processes on this host",
        group="commands",
    ),
}


class StudyError(Exception):
    """What the user can set right; shown without a traceback."""


def load(name: str) -> tuple[Any, Any]:
    """Returns the module of a name, which has `run`, and its configuration's class.

    Raises:
      StudyError: if there is no such study, or a package that it needs is missing.
    """
    every = STUDIES | COMMANDS
    if name not in every:
        close = difflib.get_close_matches(name, every)
        meant = f" Did you mean {' or '.join(close)}?" if close else ""
        raise StudyError(
            f"there is no study {name!r}.{meant} There are: {', '.join(every)}."
        )
    try:
        module = importlib.import_module(every[name].module)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "experiments"):
            raise
        raise StudyError(
            f"{name} needs the package {package!r}, which is not installed: "
            "pip install -e '.[experiments]'"
        ) from error
    return module, getattr(module, every[name].config)
