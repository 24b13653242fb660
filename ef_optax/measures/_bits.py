"""Bits per step as the first paper on signSGD counts them."""

import math
import operator

# Bits for one parameter and one worker: up to the server, and back down.
_BITS = {
    "sgd": lambda workers: 32 + 32,
    "qsgd": lambda workers: 2 + math.log2(2 * workers + 1),
    "terngrad": lambda workers: 2 + math.log2(2 * workers + 1),
    "majority_vote": lambda workers: 1 + 1,
}


def bits_per_step(method: str, parameters: int, workers: int) -> float:
    r"""Bits that cross the network in a step, by the table of the signSGD paper.

    .. math::

      \begin{aligned}
      \text{SGD:} &\quad 64\, M d \\
      \text{QSGD, TernGrad:} &\quad \left(2 + \log_2(2M + 1)\right) M d \\
      \text{majority vote:} &\quad 2\, M d
      \end{aligned}

    for the whole system: from all M workers to a server, and from it back to all.
    QSGD is the one with a single level. The sum of M such ternary numbers takes
    2M + 1 values, hence the logarithm on the way back. Scales are not counted.
    This is an idealised count: ``wire_report`` reads the bytes of a real program.

    Args:
      method: ``'sgd'``, ``'qsgd'``, ``'terngrad'`` or ``'majority_vote'``.
      parameters: d ≥ 1, the number of coordinates.
      workers: M ≥ 1.

    Returns:
      The number of bits, a float.

    Raises:
      ValueError: the method is unknown, or ``parameters`` or ``workers`` is not an
        integer of at least 1.

    Examples:
      >>> from ef_optax import measures
      >>> measures.bits_per_step('sgd', parameters=1000, workers=4)
      256000.0
      >>> measures.bits_per_step('majority_vote', parameters=1000, workers=4)
      8000.0

    References:
      Bernstein et al., `signSGD: Compressed Optimisation for Non-Convex Problems
      <https://arxiv.org/abs/1802.04434>`_, 2018, Table 1.
    """
    if method not in _BITS:
        raise ValueError(
            f"bits_per_step: method is {method!r}; allowed: {', '.join(_BITS)}."
        )
    for name, value in (("parameters", parameters), ("workers", workers)):
        try:
            valid = not isinstance(value, bool) and operator.index(value) >= 1
        except TypeError:
            valid = False
        if not valid:
            raise ValueError(
                f"bits_per_step: {name} is {value!r}; "
                "allowed: an integer of at least 1."
            )
    each = _BITS[method](operator.index(workers))
    return float(each * operator.index(workers) * operator.index(parameters))
