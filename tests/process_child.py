"""What the processes of test_processes.py run; also called in one process."""

import functools
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import ef_optax as eo
from experiments._checkpoints import place
from experiments.distributed import digest

AXIS = "workers"
SHAPES = {"w": (40, 9), "b": (7,), "scalar": ()}
ef = functools.partial(eo.error_feedback, axis_name=AXIS)


def vote(**kwargs):
    return eo.majority_vote(AXIS, **kwargs)


# Every way to cross; made late, since random keys start JAX's backend.
WAYS = {
    "all_reduce": lambda: ef(eo.random_k(k=5, key=1)),
    "mean": lambda: eo.compress(eo.identity(), axis_name=AXIS),
    "gather": lambda: ef(eo.scaled_sign()),
    "gather_top_k": lambda: ef(eo.top_k(k=3)),
    "two_way": lambda: ef(eo.scaled_sign(), exchange=eo.two_way()),
    "vote": vote,
    "packed_vote": lambda: vote(wire="packed", zero="positive", tie="positive"),
    "two_bits": lambda: vote(wire="packed", quorum=2),
    "local": lambda: optax.chain(eo.local(optax.trace(0.5), AXIS), vote()),
}


# Every collective and every kind of state once.
COMPARED = ("all_reduce", "gather_top_k", "two_way", "two_bits", "local")


def gradients(mesh, seed):
    """Gradients of all workers, sixteenths, so that sums are exact in any order."""
    rng = np.random.default_rng(seed)
    tree = {
        name: (rng.integers(-40, 40, (mesh.size, *shape)) / 16).astype(np.float32)
        for name, shape in SHAPES.items()
    }
    split = NamedSharding(mesh, P(AXIS))
    return place(tree, jax.tree.map(lambda _: split, tree))


def results(mesh, steps=3):
    """Returns checksums of all bits that every way to cross makes in some steps."""
    txs = {name: eo.over_workers(WAYS[name](), mesh) for name in COMPARED}
    replicated = NamedSharding(mesh, P())
    params = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    params = place(params, jax.tree.map(lambda _: replicated, params))

    @jax.jit
    def update(grads, states):
        return {name: tx.update(grads, states[name]) for name, tx in txs.items()}

    states = {name: tx.init(params) for name, tx in txs.items()}
    made = {name: [] for name in txs}
    for number in range(steps):
        out = update(gradients(mesh, number), states)
        for name, (updates, state) in out.items():
            made[name].append(updates)
            states[name] = state
    return {name: digest((made[name], states[name])) for name in txs}


def replicas(mesh, way="two_way", chunks=4, steps=50):
    """Trains for chunks of steps; fails if the replicas ever differ, by checksums."""
    tx = eo.over_workers(
        optax.chain(WAYS[way](), optax.scale_by_learning_rate(1e-3)), mesh)

    def loss(params, x):
        hidden = jnp.tanh(x @ params["u"] + params["b"])
        return jnp.mean(jnp.square(hidden @ params["v"] - jnp.sin(3 * x[:, 0])))

    @functools.partial(jax.jit, donate_argnums=0)
    def train(carry, start):
        def step(carry, number):
            params, state = carry
            x = jax.random.normal(jax.random.key(number), (mesh.size, 4, 3))
            x = jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(AXIS)))
            grads = jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, x)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, carry, start + jnp.arange(steps))[0]

    params = {"u": np.full((3, 5), 0.1, np.float32), "b": np.zeros(5, np.float32),
              "v": np.full(5, 0.1, np.float32)}
    replicated = NamedSharding(mesh, P())
    params = place(params, jax.tree.map(lambda _: replicated, params))
    carry = (params, tx.init(params))
    sums = []
    for chunk in range(chunks):
        carry = train(carry, chunk * steps)
        sums.append(digest(carry))
    # Moved, and by what differs from step to step.
    assert len(set(sums)) == chunks
    return sums


def loopback():
    """Returns the bytes that all processes of this host have sent to one another."""
    for line in pathlib.Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[8])
    raise AssertionError("no loopback")


def traffic(mesh, way, size, rounds):
    """Returns what a report says that all workers send, and what the loopback saw."""
    tx = eo.over_workers(WAYS[way](), mesh)
    split = NamedSharding(mesh, P(AXIS))
    everywhere = NamedSharding(mesh, P())
    fill = jax.jit(lambda: jnp.ones((mesh.size, size)), out_shardings=split)
    params = jax.jit(lambda: jnp.zeros(size), out_shardings=everywhere)()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def run(grads, state):
        def once(carry, _):
            grads, state = carry
            updates, state = tx.update(grads, state)
            return (grads + updates, state), None

        return jax.lax.scan(once, (grads, state), length=rounds)[0]

    compiled = run.lower(fill(), tx.init(params)).compile()
    report = eo.wire_report(compiled, parameters=size)
    args = jax.block_until_ready((fill(), tx.init(params)))
    args = jax.block_until_ready(compiled(*args))  # connects
    wait()
    before = loopback()
    wait()  # or another would send before this one has read
    jax.block_until_ready(compiled(*args))
    wait()
    sent = loopback() - before
    wait()
    return {"report": report.bytes_sent * mesh.size, "loopback": sent,
            "bits": report.bits_per_parameter / rounds}


def wait():
    """Waits until all processes are here; a few hundred bytes."""
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices("traffic")


# way: (floats, rounds), of which each moves 10 MB or more between four workers.
TRAFFIC = {
    "mean": (300_000, 2),
    "packed_vote": (2_400_000, 6),
    "gather": (1_200_000, 6),
    "two_way": (2_400_000, 6),
}


def everything(mesh):
    """All measurements of one start."""
    out = {"replicas": replicas(mesh)}
    if pathlib.Path("/proc/net/dev").exists():
        out["traffic"] = {way: traffic(mesh, way, *TRAFFIC[way]) for way in TRAFFIC}
    return out


def a_thousand_steps(mesh):
    return replicas(mesh, steps=250)


if __name__ == "__main__":
    jax.distributed.initialize()
    found = globals()[sys.argv[1]](eo.worker_mesh())
    path = pathlib.Path(sys.argv[2]) / str(jax.process_index())
    path.write_text(json.dumps(found))
