"""What a compiled function sends, beside the mean of its gradients in float32."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from ef_optax.wire._collectives import Collective, read_program
from ef_optax.wire._hlo import parse


@dataclasses.dataclass(frozen=True)
class WireReport:
    """What one execution of a program makes each worker send; a table as a string.

    All branches of conditionals are in `collectives`; `least_bytes_sent` and
    `bytes_sent` are of the branches that send least and most. `parameters` is how many
    numbers a worker would average in float32, or None.
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
        rows = [["collective", "dtype", "bytes in", "workers", "times", "bytes sent",
                 "from"]]
        for c in self.collectives:
            times = ("≤ " if c.conditional else "") + str(c.times)
            rows.append([
                c.kind, c.dtype, f"{c.size:,}", str(c.workers), times,
                f"{c.times * c.sent:,.0f}", c.source or "resharding by the compiler",
            ])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                f"{cell:{side}{width}}"
                for cell, side, width in zip(row, "<<>>>><", widths, strict=True)
            ).rstrip()
            for row in rows if self.collectives
        ]
        total = f"{self.bytes_sent:,.0f}"
        if self.least_bytes_sent != self.bytes_sent:
            total = f"{self.least_bytes_sent:,.0f} to {total} (depending on branches)"
        lines.append(f"each of {self.workers} workers sends {total} bytes")
        if self.parameters is not None:
            lines.append(
                f"float32 pmean of {self.parameters:,} parameters: "
                f"{self.pmean_bytes:,.0f} bytes"
            )
        if self.parameters:
            lines.append(f"{self.bits_per_parameter:.3f} bits sent per parameter")
            if self.bytes_sent and self.pmean_bytes:
                less = self.pmean_bytes / self.bytes_sent
                lines[-1] += f", 1/{less:.1f} of float32 pmean"
        return "\n".join(lines)


def wire_report(
    fn: Callable[..., Any], *args: Any, parameters: Any = None, **kwargs: Any
) -> WireReport:
    r"""Reports what each worker sends, read from the compiled program.

    Compiles `fn` for these arguments and reads the collectives that XLA left in the
    program: what really crosses, in the dtypes that really cross. Nothing runs. With
    M workers and n bytes put in by each, one worker sends

    .. math::
      \text{all-reduce} &: 2 \tfrac{M-1}{M}\, n & \text{(ring)} \\
      \text{reduce-scatter, all-to-all} &: \tfrac{M-1}{M}\, n & \\
      \text{all-gather} &: (M-1)\, n & \text{(ring or pairwise)} \\
      \text{collective-permute} &: n & \text{(the workers that send)}

    which is the least that each must send unless the switches of the network compute.
    Headers of packets, about 0.1 to 4%, are not counted, nor what a custom call may
    send on its own. Collectives in a loop of known length count as often as they run.
    Of a conditional, such as :func:`ef_optax.accumulate` has, all branches are listed,
    with the bytes of those that send least and most.

    Args:
      fn: a function; or one that :func:`jax.jit` or :func:`jax.pmap` made, or a
        compiled program (``jax.jit(f).lower(...).compile()``), without arguments here.
      *args: of `fn`: arrays, or :class:`jax.ShapeDtypeStruct`.
      parameters: what the float32 mean is compared of: a number, or a pytree whose
        elements count (arguments of `fn` may have a worker axis). None: no comparison.
      **kwargs: of `fn`.

    Returns:
      A :class:`WireReport`; print it.

    Raises:
      TypeError: if `fn` cannot be compiled, or `parameters` cannot be counted.
      ValueError: for a collective that cannot be counted, or one in a loop whose length
        depends on data.

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
        traffic = read_program(program)
    except ValueError as error:
        raise ValueError(
            f"wire_report cannot count what fn sends: {error} Where that is a part of "
            "fn only, report the other parts alone."
        ) from error
    groups = {(c.workers, c.groups) for c in traffic.collectives if c.workers > 1}
    # On a mesh of workers and shards of the model, the groups tell who workers are,
    # unless an exchange goes axis by axis.
    workers = groups.pop()[0] if len(groups) == 1 else program.devices
    return WireReport(traffic.collectives, traffic.least, traffic.most, workers, count)


def _compiled_text(fn: Any, args: Any, kwargs: Any) -> str:
    if hasattr(fn, "as_text"):
        return fn.as_text()
    lower = fn.lower if hasattr(fn, "lower") else jax.jit(fn).lower
    return str(lower(*args, **kwargs).compile().as_text())


def _count(parameters: Any) -> int | None:
    """Returns a number of parameters, from it or from a pytree of arrays."""
    if parameters is None or isinstance(parameters, int):
        return parameters
    return sum(x.size for x in jax.tree.leaves(parameters))
