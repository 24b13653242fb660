"""Functions of one worker, mapped over workers in every way that users have."""

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import ef_optax as eo

AXIS = "workers"
PAIR = ("hosts", "devices")


def mapped(make, mode, workers):
    """Maps make(axis), of what each worker has, over the workers."""
    axis, names, shape = AXIS, (AXIS,), (workers,)
    if mode.startswith("pair"):
        axis, names, shape = PAIR, PAIR, (2, workers // 2)
    step = make(axis)
    if mode == "vmap":
        return jax.jit(jax.vmap(step, axis_name=AXIS))
    devices = jax.devices()[:workers]
    if mode == "pmap":
        return jax.pmap(step, AXIS, devices=devices)
    if mode == "pair, vmap":
        nested = jax.vmap(jax.vmap(step, axis_name=PAIR[1]), axis_name=PAIR[0])

        def run(own):
            own = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), own)
            return jax.tree.map(lambda x: x.reshape(workers, *x.shape[2:]), nested(own))

        return jax.jit(run)
    mesh = jax.make_mesh(shape, names, devices=devices,
                         axis_types=(AxisType.Auto,) * len(names))

    def one(own):
        out = step(jax.tree.map(lambda x: x[0], own))
        return jax.tree.map(lambda x: x[None], eo.Workers(axis).varying(out))

    return jax.jit(jax.shard_map(one, mesh=mesh, in_specs=P(names), out_specs=P(names),
                                 check_vma=True))
