"""Networks have the papers' numbers of parameters."""

import jax
import jax.numpy as jnp
import pytest
from contract_tools import quick_compilation  # noqa: F401

from experiments import models


@pytest.mark.parametrize(
    ("name", "classes", "parameters", "tensors"),
    [
        ("resnet18", 100, 11_220_132, 62),
        ("vgg19", 10, 20_040_522, 66),
        ("resnet20", 10, 272_474, None),
        ("resnet8", 10, 78_042, None),
        ("resnet8_16", 10, 78_042, None),
    ],
)
def test_parameters(name, classes, parameters, tensors):
    network = models.build(name, classes)
    shapes = jax.eval_shape(
        lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    )
    leaves = jax.tree.leaves(shapes["params"])
    assert sum(leaf.size for leaf in leaves) == parameters
    assert tensors is None or len(leaves) == tensors
    logits = jax.eval_shape(
        lambda v: network.apply(v, jnp.zeros((2, 32, 32, 3))), shapes
    )
    assert logits.shape == (2, classes)


def test_batch_statistics_move_in_training_only():
    network = models.build("resnet4_tiny", 10)
    x = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    variables = network.init(jax.random.key(0), x)
    _, kept = network.apply(variables, x, mutable=["batch_stats"])
    before = {"batch_stats": variables["batch_stats"]}
    assert jax.tree.all(jax.tree.map(
        lambda a, b: bool((a == b).all()), kept, before
    ))
    _, moved = network.apply(variables, x, True, mutable=["batch_stats"])
    assert not jax.tree.all(jax.tree.map(
        lambda a, b: bool((a == b).all()), moved, kept
    ))


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match="got 'resnet19'"):
        models.build("resnet19", 10)
