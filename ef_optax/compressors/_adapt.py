"""Any optax transformation as a compressor, for one worker."""

import re
from typing import Any

import jax
import optax

from ef_optax.compressors._base import Compressor
from ef_optax.workers import Workers

# As an equation of a program is printed, with the programs in it.
_COLLECTIVE = re.compile(
    r"= (psum|pmax|pmin|all_gather|all_to_all|ppermute|reduce_scatter)"
)


def compressor_of(
    tx: optax.GradientTransformation, params: Any = None, extra: Any = None
) -> Compressor:
    """Returns a compressor whose message is the update that `tx` makes.

    `params` and `extra` are what `tx` is given at this step. It calls no collective.
    """
    if isinstance(tx, Compressor):
        return tx
    update = optax.with_extra_args_support(tx).update

    def encode(updates: Any, state: Any, workers: Workers) -> Any:
        def step(updates: Any, state: Any) -> Any:
            return update(updates, state, params, **(extra or {}))

        if _depends_on_collective(step, updates, state):
            raise TypeError(
                "error_feedback cannot hold an exchange: what this worker sent is not "
                "known then, so nothing could be kept. Give error_feedback the "
                "compressor and axis_name=, and chain the rest before it."
            )
        message, state = step(updates, state)
        return message, (), state

    return Compressor(
        f"an optax transformation, {type(tx).__name__}",
        init=tx.init, encode=encode, decode=lambda message, shared: message,
    )


def _depends_on_collective(step: Any, updates: Any, state: Any) -> bool:
    """Returns whether the update of a step is made from what other workers have."""
    jaxpr, shapes = jax.make_jaxpr(step, return_shape=True)(updates, state)
    made = jaxpr.jaxpr.outvars[:len(jax.tree.leaves(shapes[0]))]
    needed = {id(var) for var in made}
    for equation in reversed(jaxpr.jaxpr.eqns):
        if needed & {id(var) for var in equation.outvars}:
            if _COLLECTIVE.search(str(equation)):
                return True
            needed |= {id(var) for var in equation.invars}
    return False
