"""The README's snippets run, in the order in which a reader meets them."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

import ef_optax
from experiments._registry import STUDIES

README = pathlib.Path(__file__).parent.parent / "README.md"


def snippets():
    return re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_chain_in_five_lines():
    names = {}
    exec(snippets()[0], names)
    kept = sum(int(jnp.count_nonzero(u)) for u in jax.tree.leaves(names["updates"]))
    assert kept == 10  # 1% of 1,000; the other leaf is all 0


def test_distributed_in_fifteen():
    names = {}
    exec(snippets()[1], names)
    rng = np.random.default_rng(0)
    truth = jnp.array([1.0, -2.0, 3.0])
    x = jnp.array(rng.standard_normal((200, 16, 3)), jnp.float32)
    params, losses = names["train"](jnp.zeros(3), {"x": x, "y": x @ truth})
    assert losses.shape == (200,)
    assert losses[-1] < 1e-3 * losses[0]
    np.testing.assert_allclose(params, truth, atol=0.05)


def test_under_plain_jit():
    names = {}
    exec(snippets()[2], names)
    workers = names["mesh"].size
    rng = np.random.default_rng(0)
    truth = jnp.array([1.0, -2.0, 3.0])
    params, state = jnp.zeros(3), names["tx"].init(jnp.zeros(3))
    for _ in range(200):
        x = jnp.array(rng.standard_normal((workers, 16, 3)), jnp.float32)
        params, state = names["step"](params, state, {"x": x, "y": x @ truth})
    np.testing.assert_allclose(params, truth, atol=0.05)


def test_tables_name_what_exists():
    text = README.read_text()
    for path in re.findall(r"\]\((ef_optax/[^)]*)\)", text):
        assert (README.parent / path).exists(), path
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows
    for row in rows:
        for name, more in re.findall(r"`(\w+)(\*?)", row.split("|")[1]):
            studies = [s for s in STUDIES if s == name or (more and s.startswith(name))]
            assert name in ef_optax.__all__ or studies, name


def test_every_public_name_has_a_docstring():
    for name in ef_optax.__all__:
        assert getattr(ef_optax, name).__doc__, name
