"""What a compiled function sends, beside the mean of its gradients in float32."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ef_optax._checks import shown
from ef_optax.wire._collectives import Collective, Traffic, traffic_of
from ef_optax.wire._hlo import parse


@dataclasses.dataclass(frozen=True)
class WireReport:
    """What one execution of a program makes each worker send; a table as a string.

    Attributes:
      collectives: every collective operation, those of all branches too.
      least_bytes_sent: by each worker, if branches that send least are taken.
      bytes_sent: by each worker, at most; without conditionals it is just this.
      workers: how many take part.
      parameters: how many numbers a worker would average in float32, or None.
    """

    collectives: tuple[Collective, ...]
    least_bytes_sent: float
    bytes_sent: float
    workers: int
    parameters: int | None = None

    @property
    def pmean_bytes(self) -> float:
        """Bytes that each worker sends to average the parameters in float32."""
        if self.parameters is None:
            raise ValueError(
                "the number of parameters is not known; pass parameters= to "
                "wire_report, a number or a pytree of them."
            )
        return Collective("all-reduce", 4 * self.parameters, self.workers, 1).sent

    @property
    def bits_per_parameter(self) -> float:
        """Bits that each worker sends for one parameter, at most."""
        self.pmean_bytes  # noqa: B018  # refuses if the number is not known
        return 8 * self.bytes_sent / (self.parameters or 1)

    def __str__(self) -> str:
        header = ["collective", "dtype", "bytes in", "workers", "times", "bytes sent",
                  "from"]
        rows = [
            [
                c.kind, c.dtype, f"{c.size:,}", str(c.workers),
                ("≤ " if c.conditional else "") + str(c.times),
                f"{c.times * c.sent:,.0f}", c.source or "resharding by the compiler",
            ]
            for c in self.collectives
        ]
        return "\n".join([*(_table(header, rows) if rows else []), *self._sums()])

    def _sums(self) -> list[str]:
        total = f"{self.bytes_sent:,.0f}"
        if self.least_bytes_sent != self.bytes_sent:
            total = f"{self.least_bytes_sent:,.0f} to {total} (depending on branches)"
        lines = [f"each of {self.workers} workers sends {total} bytes"]
        if self.parameters is None:
            return lines
        lines.append(
            f"float32 pmean of {self.parameters:,} parameters: "
            f"{self.pmean_bytes:,.0f} bytes"
        )
        if self.parameters:
            end = f"{self.bits_per_parameter:.3f} bits sent per parameter"
            if self.bytes_sent and self.pmean_bytes:
                end += f", 1/{self.pmean_bytes / self.bytes_sent:.1f} of float32 pmean"
            lines.append(end)
        return lines


def wire_report(
    fn: Callable[..., Any],
    *args: Any,
    parameters: Any = None,
    **kwargs: Any,
) -> WireReport:
    r"""Reports what each worker sends, read from the compiled program.

    Compiles `fn` for these arguments and reads the collectives that XLA left in the
    program: what really crosses, in the dtypes that really cross. Nothing runs. With
    M workers and n bytes put in by each, one worker sends

    .. math::
      \begin{aligned}
      \text{all-reduce} &: 2 \tfrac{M-1}{M}\, n & \text{(ring)} \\
      \text{reduce-scatter} &: \tfrac{M-1}{M}\, n & \text{(ring)} \\
      \text{all-gather} &: (M-1)\, n & \text{(ring or pairwise)} \\
      \text{all-to-all} &: \tfrac{M-1}{M}\, n & \text{(pairwise)} \\
      \text{collective-permute} &: n & \text{(the workers that send)}
      \end{aligned}

    which is the least that each must send unless the switches of the network compute.
    Headers of packets, about 0.1 to 4%, are not counted. Collectives in a loop of
    known length count as often as they run. Of a conditional, such as
    :func:`ef_optax.accumulate` has, all branches are listed, and the report gives the
    bytes of the branches that send least and of those that send most. Not seen is
    what a custom call may send on its own.

    Args:
      fn: a function; or one that :func:`jax.jit` or :func:`jax.pmap` made, or a
        compiled program (``jax.jit(f).lower(...).compile()``), which takes no
        arguments here.
      *args: of `fn`: arrays, or :class:`jax.ShapeDtypeStruct`.
      parameters: what the float32 mean is compared of: a number, or a pytree whose
        elements count. None: no comparison, for arguments of `fn` may have a leading
        axis of workers, or not.
      **kwargs: of `fn`.

    Returns:
      A :class:`WireReport`; print it.

    Raises:
      TypeError: if `fn` cannot be compiled, or `parameters` is no number or pytree of
        arrays.
      ValueError: if the program has a collective that cannot be counted, or one in a
        loop whose length depends on data.

    Examples:
      >>> import functools, jax, jax.numpy as jnp, ef_optax
      >>> vote = ef_optax.majority_vote("workers")
      >>> @functools.partial(jax.pmap, axis_name="workers")
      ... def update(g):
      ...     return vote.update(g, vote.init(g))[0]
      >>> grads = jnp.ones((jax.local_device_count(), 999))
      >>> report = ef_optax.wire_report(update, grads, parameters=999)
      >>> [(c.kind, c.dtype, c.size) for c in report.collectives]
      [('all-reduce', 's8', 1000)]
    """
    count = _count(parameters)
    hlo = _compiled_text(fn, args, kwargs)
    try:
        program = parse(hlo)
        traffic = traffic_of(program)
    except ValueError as error:
        raise ValueError(
            f"wire_report cannot count what fn sends: {error} Where that is a part of "
            "fn only, report the other parts alone."
        ) from error
    return report_of(traffic, program.devices, count)


def report_of(
    traffic: Traffic, devices: int, parameters: int | None = None
) -> WireReport:
    """Returns the report of what a program on so many devices sends."""
    groups = {(c.workers, c.groups) for c in traffic.collectives if c.workers > 1}
    # On a mesh of workers and shards of the model, the groups tell who workers are,
    # unless an exchange goes axis by axis.
    workers = groups.pop()[0] if len(groups) == 1 else devices
    return WireReport(
        traffic.collectives, traffic.least, traffic.most, workers, parameters
    )


def _compiled_text(fn: Any, args: Any, kwargs: Any) -> str:
    if hasattr(fn, "as_text"):
        if args or kwargs:
            raise TypeError(
                "wire_report: a compiled program takes no arguments here; got "
                f"{len(args) + len(kwargs)}. It was compiled for those of lower(...)."
            )
        return fn.as_text()
    if not callable(fn):
        raise TypeError(
            "wire_report: fn must be a function, a jitted one or a compiled program; "
            f"got {shown(fn)}."
        )
    lower = fn.lower if hasattr(fn, "lower") else jax.jit(fn).lower
    return str(lower(*args, **kwargs).compile().as_text())


def _count(parameters: Any) -> int | None:
    """Returns a number of parameters, from it or from a pytree of arrays."""
    if parameters is None or isinstance(parameters, int):
        return parameters
    leaves = jax.tree.leaves(parameters)
    if any(not hasattr(x, "shape") for x in leaves):
        raise TypeError(
            "wire_report: parameters must be an int or a pytree of arrays; got "
            f"{shown(parameters)}."
        )
    return sum(math.prod(x.shape) for x in leaves)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    left = (0, 1, len(header) - 1)
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
