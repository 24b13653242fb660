"""Training over processes, with checkpoints: stop it anywhere and start it again.

    python multi_process.py --virtual 2                   # alone: two devices of a CPU
    srun -n 4 python multi_process.py --checkpoints DIR   # under Slurm
    mpirun -n 4 python multi_process.py --checkpoints DIR # under Open MPI
    python multi_process.py --checkpoints gs://BUCKET/DIR # on every host of a TPU pod
    python -m experiments launch -n 2 -- multi_process.py --checkpoints DIR
                                        # two processes here, in a checkout of ef_optax

Every device of every process is a worker. Each trains on its own part of scikit-learn's
1,797 handwritten digits, sends one bit a coordinate to the workers that serve it, and
gets one bit back (`two_way`), however many workers there are.

A checkpoint holds the whole state: the error and the momentum of every worker too. The
same command, started again, goes on from the last one, and ends with the bits that it
would have had without the stop. Started with another number of workers it says so, and
goes on with ``--resize``.

It prints the loss and ends with the bytes that each worker sent in a step, the test
accuracy and a checksum of the whole state of all workers. Alone, on 2 cores, it takes
about 6 seconds:

    each of 2 workers sends 1,240 bytes
    workers: 2, processes: 1, steps: 300, test accuracy: 95.3%, checksum: ...
"""

import argparse
import hashlib
import os

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P
from sklearn.datasets import load_digits

import ef_optax

BATCH = 48  # images in a step, of all workers together
LEARNING_RATE = 0.1
SEED = 0


def make_optimizer(mesh):
    """Returns the optimizer for the workers of a mesh.

    To a compressor that draws random numbers give a raw key, jax.random.PRNGKey(0): an
    array like any other, where Orbax and NumPy need special care of a typed one.
    """
    return ef_optax.over_workers(
        ef_optax.ef_sign_sgd(
            LEARNING_RATE, axis_name="workers", momentum=0.9,
            exchange=ef_optax.two_way()),
        mesh)


def init_params():
    """Returns the parameters at the start; every process makes the same ones."""
    rng = np.random.default_rng(SEED)
    return {
        "w1": rng.normal(0, 1 / 8, (64, 128)).astype(np.float32),
        "b1": np.zeros(128, np.float32),
        "w2": rng.normal(0, 1 / 12, (128, 10)).astype(np.float32),
        "b2": np.zeros(10, np.float32),
    }


def predict(params, x):
    """Returns a logit for each digit."""
    hidden = jax.nn.relu(x @ params["w1"] + params["b1"])
    return hidden @ params["w2"] + params["b2"]


def loss_fn(params, x, y):
    """Returns the mean loss of one worker's images."""
    logits = predict(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def shardings_of(state, mesh):
    """Returns where the leaves of a state, or of its shapes, are on the mesh.

    What belongs to one worker has a leading worker axis and is on that worker's device;
    parameters, and all else, are whole on every device.
    """
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), ef_optax.state_specs(state))


def leaves_of(state):
    """Returns the names, shapes and dtypes of the leaves of a state."""
    return [f"{jax.tree_util.keystr(path)} {x.dtype}{list(x.shape)}"
            for path, x in jax.tree_util.tree_leaves_with_path(state)]


class Checkpoints:
    """The last checkpoints in a directory that all processes see."""

    def __init__(self, path):
        """Opens the directory, or makes it."""
        path = path if "://" in path else os.path.abspath(path)
        # Synchronous: on return it is written, and the state may be donated.
        self.manager = ocp.CheckpointManager(
            path, item_names=("state", "about"),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2, enable_async_checkpointing=False))

    def save(self, step, state, workers):
        """Writes a checkpoint; all processes call it, each writes what it has."""
        self.manager.save(step, args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            about=ocp.args.JsonSave({"workers": workers, "leaves": leaves_of(state)})))

    def restore(self, mesh, resize):
        """Returns the step of the last checkpoint and its state, placed on the mesh."""
        step = self.manager.latest_step()
        about = self.manager.restore(
            step, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
        workers = about["workers"]
        if workers != mesh.size and not resize:
            raise SystemExit(
                f"The checkpoint of step {step} is of {workers} workers, and here are "
                f"{mesh.size}. Start as many, or go on with --resize.")
        # The shapes of the state as it was saved. A mesh without devices will do.
        saved = AbstractMesh((workers,), ("workers",))
        params = init_params()
        shapes = {
            "params": jax.eval_shape(lambda: params),
            "optimizer": jax.eval_shape(make_optimizer(saved).init, params),
        }
        if about["leaves"] != leaves_of(shapes):
            raise SystemExit(f"The checkpoint of step {step} is of another network or "
                             "optimizer: its arrays have other names or shapes.")
        if workers == mesh.size:
            # Each process reads what its own workers need.
            target = jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                shapes, shardings_of(shapes, mesh))
            return step, self._read(step, target)
        # Each process reads all of it, and makes of it the state of its own workers.
        target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), shapes)
        state = ef_optax.resize_workers(self._read(step, target), mesh.size)
        return step, jax.device_put(state, shardings_of(state, mesh))

    def _read(self, step, target):
        return self.manager.restore(step, args=ocp.args.Composite(
            state=ocp.args.StandardRestore(target))).state


def batch(data, step, mesh):
    """Returns the images of a step, [workers, ...], each on the device of its worker.

    They follow from the step alone, so that a training that goes on takes those that it
    would have taken. A process loads no images but its own.
    """
    x, y = data
    order = np.random.default_rng([SEED, step]).permutation(len(x))[:BATCH]
    order = order.reshape(mesh.size, -1)
    # worker_mesh() puts the workers of a process next to each other.
    mine = np.split(order, jax.process_count())[jax.process_index()]
    split = NamedSharding(mesh, P("workers"))
    return tuple(jax.make_array_from_process_local_data(split, part[mine])
                 for part in (x, y))


def checksum(state):
    """Returns a checksum of the whole state of all workers.

    It fails if the parameters are not the same, to the bit, on all devices.
    """
    copies = {
        b"".join(np.asarray(x.addressable_data(i)).tobytes()
                 for x in jax.tree.leaves(state["params"]))
        for i in range(jax.local_device_count())}
    multihost_utils.assert_equal(
        np.frombuffer(hashlib.sha256(b"".join(copies)).digest(), np.uint8),
        "the parameters differ between processes")
    assert len(copies) == 1, "the parameters differ between devices"
    whole = multihost_utils.process_allgather(state, tiled=True)
    everything = b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(whole))
    return hashlib.sha256(everything).hexdigest()[:16]


def say(text):
    """Prints a line, from one process, at once."""
    if jax.process_index() == 0:
        print(text, flush=True)


def main(argv=None):
    """Trains, or goes on with a training; returns what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="of all together [300]")
    parser.add_argument("--checkpoints", metavar="DIR",
                        help="seen by all processes; what is there is gone on with")
    parser.add_argument("--every", type=int, default=50, metavar="STEPS",
                        help="between checkpoints, and printed losses [50]")
    parser.add_argument("--resize", action="store_true",
                        help="go on with another number of workers")
    parser.add_argument("--virtual", type=int, default=0, metavar="WORKERS",
                        help="train alone, with so many virtual devices of a CPU")
    options = parser.parse_args(argv)
    if options.steps < 1 or options.every < 1 or options.virtual < 0:
        parser.error("--steps and --every must be at least 1, --virtual not negative.")
    if options.virtual:
        jax.config.update("jax_num_cpu_devices", options.virtual)
    else:
        try:  # Before anything else of JAX. Whoever started the processes tells it all.
            jax.distributed.initialize()
        except ValueError as error:
            parser.error(f"no other processes found ({error}) Start it by srun, by "
                         "mpirun, or on a TPU pod; or alone with --virtual 2.")
    mesh = ef_optax.worker_mesh()
    if BATCH % mesh.size:
        parser.error(f"{BATCH} images do not divide evenly among {mesh.size} workers.")

    x, y = load_digits(return_X_y=True)
    x, y = (x / 16).astype(np.float32), y.astype(np.int32)
    order = np.random.default_rng(0).permutation(len(x))
    test, train = (x[order[:360]], y[order[:360]]), (x[order[360:]], y[order[360:]])

    tx = make_optimizer(mesh)

    def step(state, x, y):
        local = jax.vmap(jax.value_and_grad(loss_fn), in_axes=(None, 0, 0))
        losses, grads = local(state["params"], x, y)
        updates, optimizer = tx.update(grads, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "optimizer": optimizer}, losses.mean()

    step = jax.jit(step, donate_argnums=0)
    params = jax.device_put(init_params(), NamedSharding(mesh, P()))
    first, state = 0, {"params": params, "optimizer": tx.init(params)}
    checkpoints = Checkpoints(options.checkpoints) if options.checkpoints else None
    if checkpoints and checkpoints.manager.latest_step() is not None:
        first, state = checkpoints.restore(mesh, options.resize)
        say(f"goes on from step {first}")

    wire = ef_optax.wire_report(step, state, *batch(train, 0, mesh), parameters=params)
    losses = []
    for done in range(first + 1, options.steps + 1):
        state, loss = step(state, *batch(train, done, mesh))
        losses.append(float(loss))
        if done % options.every == 0 or done == options.steps:
            say(f"step {done}: loss {loss:.4f}")
            if checkpoints:
                checkpoints.save(done, state, mesh.size)
    if checkpoints:
        checkpoints.manager.close()

    params = jax.tree.map(np.asarray, state["params"])
    right = predict(params, test[0]).argmax(-1) == test[1]
    results = {
        "workers": mesh.size, "processes": jax.process_count(), "from_step": first,
        "steps": max(first, options.steps), "losses": losses,
        "test_accuracy": float(right.mean()),
        "bytes_sent": wire.bytes_sent, "checksum": checksum(state),
    }
    say(str(wire))
    say(f"workers: {results['workers']}, processes: {results['processes']}, "
        f"steps: {results['steps']}, test accuracy: {results['test_accuracy']:.1%}, "
        f"checksum: {results['checksum']}")
    return results


if __name__ == "__main__":
    main()
