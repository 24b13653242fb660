"""What an installed ef_optax must do with nothing but what it depends on.

    python tests/smoke.py

Any warning whose line is ours is an error. Runs in environments without pytest.
"""

import sys
import time
import warnings

warnings.filterwarnings("error", module=r"ef_optax(\.|$)")

started = time.process_time()
import optax  # noqa: E402

imported_optax = time.process_time()
import ef_optax  # noqa: E402

imported = time.process_time()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

WORKERS = 4
MAX_IMPORT_SECONDS = 0.3

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", WORKERS)

TARGET = {"w": jnp.linspace(-1.0, 1.0, 24).reshape(4, 6), "b": jnp.array([0.5, -2.0])}

KEY = jax.random.key(0)
SCHEDULE = optax.exponential_decay(0.1, 1, 0.98)
COMPRESSORS = [
    ef_optax.identity(), ef_optax.scaled_sign(), ef_optax.top_k(fraction=0.25),
    ef_optax.random_k(fraction=0.5, key=KEY), ef_optax.k_pca(1),
    ef_optax.cast(jnp.bfloat16),
]
OPTIMIZERS = {
    **{f"ef_sgd({compressor.name})": (ef_optax.ef_sgd(0.1, compressor), 0.1)
       for compressor in COMPRESSORS},
    "ef_sign_sgd": (ef_optax.ef_sign_sgd(0.1), 0.1),
    "sign_sgd": (ef_optax.sign_sgd(SCHEDULE), 0.1),
    "signum": (ef_optax.signum(SCHEDULE), 0.2),
    "scaled_sign_sgd": (ef_optax.scaled_sign_sgd(0.1), 0.5),
    "stochastic_sign_sgd": (ef_optax.stochastic_sign_sgd(SCHEDULE, key=KEY), 0.5),
}
WIRES = {
    "gather": ef_optax.ef_sign_sgd(0.1, axis_name="workers"),
    "two_way": ef_optax.ef_sign_sgd(
        0.1, axis_name="workers", exchange=ef_optax.two_way()
    ),
    "vote": ef_optax.sign_sgd(SCHEDULE, axis_name="workers"),
    "packed vote": ef_optax.sign_sgd(SCHEDULE, axis_name="workers", wire="packed"),
}


def loss(params, shift):
    """The squared distance to the target, which each worker sees displaced."""
    parts = jax.tree.map(lambda p, t: jnp.sum((p - t - shift) ** 2), params, TARGET)
    return 0.5 * sum(jax.tree.leaves(parts))


def alone(tx, steps=200):
    """The loss after training on one device."""

    def step(_, carry):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, 0.0), state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.zeros_like, TARGET)
    params, _ = jax.jit(
        lambda carry: jax.lax.fori_loop(0, steps, step, carry)
    )((params, tx.init(params)))
    return float(loss(params, 0.0))


def together(tx, steps=200):
    """The loss after training by several workers, and the bytes that each sends."""
    mesh = jax.sharding.Mesh(jax.devices(), ("workers",))

    def train(params, shifts):
        def step(_, carry):
            params, state = carry
            grads = ef_optax.local_value_and_grad(loss, "workers")(params, shifts[0])[1]
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, steps, step, (params, tx.init(params)))[0]

    program = jax.jit(jax.shard_map(
        train, mesh=mesh, in_specs=(P(), P("workers")), out_specs=P()
    ))
    shifts = jnp.linspace(-0.1, 0.1, WORKERS)
    params = jax.tree.map(jnp.zeros_like, TARGET)
    report = ef_optax.wire_report(program, params, shifts)
    return float(loss(program(params, shifts), 0.0)), report.bytes_sent / steps


def main():
    """Runs everything; exits with what is wrong."""
    seconds = imported - imported_optax
    print(f"ef_optax {ef_optax.__version__}, jax {jax.__version__}, optax "
          f"{optax.__version__}: imported in {seconds:.2f} s of processor time after "
          f"optax's {imported_optax - started:.2f} s")
    wrong = []
    if seconds > MAX_IMPORT_SECONDS:
        wrong.append(f"the import takes more than {MAX_IMPORT_SECONDS} s.")
    for name, (tx, limit) in OPTIMIZERS.items():
        value = alone(tx)
        print(f"{name:46} loss {value:.4f}")
        if not value < limit:
            wrong.append(f"{name} ended at {value}, not under {limit}.")
    for name, tx in WIRES.items():
        value, sent = together(tx)
        print(f"{name:46} loss {value:.4f}, {WORKERS} workers, {sent:.0f} bytes a step")
        if not value < 0.5 or not 0 < sent < 500:
            wrong.append(f"{name} ended at {value} with {sent} bytes a step.")
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
