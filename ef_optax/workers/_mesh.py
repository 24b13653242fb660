"""The mesh of the workers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from ef_optax._checks import shown


def worker_mesh(
    count: int | tuple[int, ...] | None = None,
    axis_name: str | tuple[str, ...] = "workers",
    *,
    devices: Sequence[jax.Device] | None = None,
    axis_type: AxisType = AxisType.Auto,
) -> Mesh:
    """Returns a mesh with one worker on each device, of one process or many.

    Devices are taken process by process, and as many of each, so that the workers of
    a process follow one another. Under :mod:`jax.distributed` every process makes the
    same mesh.

    Args:
      count: the number of workers; None for all devices. With several axis names a
        tuple, the length of each axis, or None for processes × devices of each.
      axis_name: the name of the worker axis, or a tuple, such as
        ``("hosts", "devices")``.
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
    if not names or not all(isinstance(n, str) for n in names):
        raise TypeError(
            f"axis_name must be a string or a tuple of strings; got {axis_name!r}."
        )
    groups: dict[int, list[Any]] = {}
    for device in jax.devices() if devices is None else devices:
        groups.setdefault(device.process_index, []).append(device)
    shape = _shape(count, names, groups)
    each, rest = divmod(math.prod(shape), len(groups))
    least = min(len(group) for group in groups.values())
    if rest or each > least:
        raise ValueError(
            f"{math.prod(shape)} workers need as many devices, the same number in "
            f"every process; there are {_describe(groups)}. Ask for fewer, or make "
            "more on a CPU before JAX runs anything: "
            f"jax.config.update('jax_num_cpu_devices', {each + bool(rest)})."
        )
    chosen = [d for index in sorted(groups) for d in groups[index][:each]]
    return Mesh(np.array(chosen).reshape(shape), names, (axis_type,) * len(names))


def _shape(
    count: Any, names: tuple[str, ...], groups: dict[int, list[Any]]
) -> tuple[int, ...]:
    """Returns the lengths of the axes."""
    if count is None:
        sizes = {len(group) for group in groups.values()}
        if len(sizes) > 1 or len(names) > 2:
            raise ValueError(
                f"count must say how many workers there are on each axis of {names}; "
                f"got None, and there are {_describe(groups)}."
            )
        shape = (len(groups), sizes.pop())
        return shape if len(names) == 2 else (math.prod(shape),)
    shape = count if isinstance(count, tuple) else (count,)
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape):
        raise ValueError(
            "count must be a positive int, or a tuple of them for several axes; got "
            f"{shown(count)}."
            + (" The name of the axis is axis_name." if isinstance(count, str) else "")
        )
    if len(shape) != len(names):
        raise ValueError(
            f"count must say the length of each axis of {names}; got {count!r}."
        )
    return shape


def _describe(groups: dict[int, list[Any]]) -> str:
    sizes = [len(groups[index]) for index in sorted(groups)]
    if len(sizes) == 1:
        return f"{sizes[0]} devices in one process"
    return f"{', '.join(map(str, sizes[:8]))} devices in {len(sizes)} processes"
