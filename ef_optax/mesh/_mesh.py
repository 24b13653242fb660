"""The mesh of the workers."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh


def worker_mesh(
    count: int | tuple[int, ...] | None = None,
    axis_name: str | tuple[str, ...] = "workers", *,
    devices: Sequence[jax.Device] | None = None, axis_type: AxisType = AxisType.Auto,
) -> Mesh:
    """Makes a mesh with one worker on each device, of one process or many.

    Devices are taken process by process, and as many of each, so that the workers of
    a process follow one another. Under :mod:`jax.distributed` every process makes the
    same mesh.

    Args:
      count: the number of workers; None for all devices. With several axis names a
        tuple, the length of each axis, or None for processes × devices of each.
      axis_name: the worker axis, or a tuple of them, such as ``("hosts", "devices")``.
      devices: what to choose from; None for :func:`jax.devices`.
      axis_type: ``AxisType.Auto``, or ``AxisType.Explicit`` for shardings in types.

    Returns:
      A :class:`jax.sharding.Mesh`. For workers × model parallelism make the mesh with
      :func:`jax.make_mesh`.

    Raises:
      ValueError: if there are too few devices, or not as many in every process.

    Examples:
      >>> import ef_optax
      >>> mesh = ef_optax.worker_mesh()
      >>> tx = ef_optax.over_workers(ef_optax.majority_vote("workers"), mesh)
    """
    names = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name)
    groups: dict[int, list[Any]] = {}
    for device in jax.devices() if devices is None else devices:
        groups.setdefault(device.process_index, []).append(device)
    least = min(map(len, groups.values()))
    if count is None:
        # As many as there are, which is one number of each process or an error below.
        most = max(map(len, groups.values()))
        count = (len(groups), most) if len(names) == 2 else len(groups) * most
    shape = count if isinstance(count, tuple) else (count,)
    each, rest = divmod(math.prod(shape), len(groups))
    if len(shape) != len(names) or min(shape) < 1 or rest or each > least:
        sizes = [len(groups[index]) for index in sorted(groups)]
        raise ValueError(
            f"count={count!r} workers on {names} need as many devices, the same number "
            f"in every process, and one number for each axis; there are {sizes[:8]} "
            f"devices in {len(sizes)} processes. Ask for fewer, or make more on a CPU: "
            "jax.config.update('jax_num_cpu_devices', n)."
        )
    chosen = [d for index in sorted(groups) for d in groups[index][:each]]
    return Mesh(np.array(chosen).reshape(shape), names, (axis_type,) * len(names))
