"""The README's snippets run, in the order in which a reader meets them."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract_tools import states
from jax.sharding import PartitionSpec as P

import ef_optax
from experiments import pipeline
from experiments._registry import STUDIES

README = pathlib.Path(__file__).parent.parent / "README.md"
TEXT = README.read_text()
SNIPPETS = dict(zip(
    ("chain", "pmap", "shard_map", "jit", "placed", "checkpoint", "ddp", "compressor"),
    re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL), strict=True,
))
TRUTH = jnp.array([1.0, -2.0, 3.0])


def run(name):
    names = {}
    exec(SNIPPETS[name], names)
    return names


def batches(seed, *lead, truth=TRUTH):
    rng = np.random.default_rng(seed)
    x = jnp.array(rng.standard_normal((*lead, 16, truth.size)), jnp.float32)
    return {"x": x, "y": x @ truth}


def test_in_an_optax_chain():
    names = run("chain")
    kept = sum(int(jnp.count_nonzero(u)) for u in jax.tree.leaves(names["updates"]))
    assert kept == 10  # 1% of 1,000; the other leaf is all 0


def test_in_pmap():
    names = run("pmap")
    params = names["replicate"](jnp.zeros(3))
    state = names["start"](params)
    for seed in range(200):
        batch = batches(seed, jax.device_count())
        params, state, _ = names["step"](params, state, batch)
    np.testing.assert_allclose(params[0], TRUTH, atol=0.05)
    assert np.unique(params, axis=0).shape[0] == 1
    error = [x for x in jax.tree.leaves(state) if x.shape == params.shape]
    assert any(np.unique(x, axis=0).shape[0] > 1 for x in error)


def test_in_shard_map():
    names = run("shard_map")
    params, losses = names["train"](jnp.zeros(3), batches(0, 200))
    assert losses.shape == (200,)
    assert losses[-1] < 1e-3 * losses[0]
    np.testing.assert_allclose(params, TRUTH, atol=0.05)


def test_under_plain_jit():
    names = run("jit")
    params, state = jnp.zeros(3), names["tx"].init(jnp.zeros(3))
    for seed in range(200):
        batch = batches(seed, names["mesh"].size)
        params, state = names["step"](params, state, batch)
    np.testing.assert_allclose(params, TRUTH, atol=0.05)


def test_a_state_that_jit_places_rightly():
    names = run("jit") | {"params": jnp.zeros(3)}
    batch = batches(0, names["mesh"].size)
    args = names["params"], names["tx"].init(names["params"]), batch
    plain = ef_optax.wire_report(names["step"], *args).bytes_sent
    exec(SNIPPETS["placed"], names)
    assert ef_optax.wire_report(names["step"], *args).bytes_sent == plain


def test_a_checkpoint_and_another_number_of_workers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run("jit")
    # More than a coordinate for each worker: of one alone nothing is lost.
    params, workers = jnp.zeros(40), names["mesh"].size
    batch = batches(0, workers, truth=jnp.arange(40.0))
    _, state = names["step"](params, names["tx"].init(params), batch)
    names |= {"np": np, "params": params, "state": state, "batches": batch, "count": 2}
    before = error_of(names["state"])
    exec(SNIPPETS["checkpoint"], names)
    assert f"each of {workers} workers sends" in capsys.readouterr().out
    after = error_of(names["state"])
    assert after.shape == (2, 40) and np.any(after)
    np.testing.assert_allclose(after.mean(axis=0), before.mean(axis=0), atol=1e-5)


def error_of(state):
    (feedback,) = states(state, ef_optax.ErrorFeedbackState)
    return np.asarray(feedback.error)


@pytest.mark.parametrize("name", ["tx", "power_sgd", "recommended"])
def test_as_a_ddp_hook(name):
    tx = run("ddp")[name]
    grads = jnp.arange(16.0).reshape(8, 2) + 1
    updates = jax.vmap(
        lambda g: tx.update(g, tx.init(jnp.ones(2)), jnp.ones(2))[0],
        axis_name="workers",
    )(grads)
    assert np.unique(updates, axis=0).shape[0] == 1 and (updates < 0).all()


def test_a_compressor_of_ones_own():
    int8 = run("compressor")["int8"]()
    rng = np.random.default_rng(0)
    for d, power in ((1, 1), (7, 1), (300, 1), (300, 9), (70_000, 3)):
        x = {"x": jnp.array(rng.standard_normal(d) ** power, jnp.float32)}
        lost = ef_optax.contraction(int8, x)
        assert lost <= 1 - int8.contraction(x) + 1e-6, (d, power)
    zero = {"a": jnp.zeros(3), "b": jnp.zeros((0, 2))}
    out, _ = int8.update(zero, int8.init(zero))
    assert not any(np.any(x) for x in jax.tree.leaves(out))
    # It crosses as it is, and the error makes up for it.
    mesh = jax.sharding.Mesh(jax.devices(), ("workers",))
    tx = ef_optax.ef_sgd(0.1, int8, axis_name="workers")
    program = jax.jit(jax.shard_map(
        lambda g: tx.update({"g": g[0]}, tx.init({"g": g[0]}))[0]["g"], mesh=mesh,
        in_specs=P("workers"), out_specs=P(),
    ))
    grads = jnp.array(rng.standard_normal((8, 1000)), jnp.float32)
    np.testing.assert_allclose(
        program(grads), -0.1 * grads.mean(axis=0), atol=0.1 * float(grads.max()) / 254)
    sent = ef_optax.wire_report(program, grads).bytes_sent
    assert sent == 7 * (1000 + 4 + 1)  # to seven others: bytes, a scale and a flag


def test_tables_name_what_exists():
    there = TEXT.split("\n## ")
    for heading in ("What there is", "The papers, reproduced"):
        part = next(p for p in there if p.startswith(heading))
        rows = [line for line in part.splitlines() if line.startswith("| `")]
        assert rows
        for row in rows:
            for name, more in re.findall(r"`(\w+)(\*?)", row.split("|")[1]):
                studies = [s for s in STUDIES
                           if s == name or (more and s.startswith(name))]
                assert name in ef_optax.__all__ or studies, name


@pytest.mark.parametrize(
    "path", sorted({p for p in re.findall(r"\]\(([^)]*)\)", TEXT) if "://" not in p})
)
def test_links_lead_somewhere(path):
    assert (README.parent / path).exists()


def test_results_are_those_that_are_published():
    published = README.parent / "experiments/published"
    rows = re.findall(r"^\| ([✓≈✗]) \| .*\| `(\w+): (\w+)` \|$", TEXT, re.MULTILINE)
    signs = {"reproduced": "✓", "reproduced in kind": "≈", "not reproduced": "✗"}
    assert len(rows) > 5
    for sign, study, key in rows:
        verdicts = json.loads((published / study / "verdicts.json").read_text())
        assert signs[verdicts[key]["verdict"]] == sign, (study, key)
    counts = re.search(
        r"Of (\d+) claims (\d+) reproduce, (\d+) in kind.*?(\d+) do not, .*?(\d+)",
        TEXT, re.DOTALL).groups()
    line = re.search(r"^\| all \|(.*)\|$", (published / "report.md").read_text(),
                     re.MULTILINE)
    assert [int(x) for x in line[1].split("|")] == [int(x) for x in counts]


def test_the_drawing_is_what_its_script_draws():
    assert pipeline.FILE.read_text(encoding="utf-8") == pipeline.drawing()


def test_every_public_name_has_a_docstring():
    for name in ef_optax.__all__:
        assert getattr(ef_optax, name).__doc__, name
