"""Checks of configurations: what was given, and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any


def check_least(config: Any, least: float, *names: str) -> None:
    """Refuses fields that are less than a number; of tuples, with any such, or empty.

    Raises:
      ValueError: if one is.
    """
    for name in names:
        value = getattr(config, name)
        if not numbers_of(value) or min(numbers_of(value)) < least:
            raise ValueError(f"{name} must be at least {least}; got {value}.")


def check_not_negative(config: Any, *names: str) -> None:
    """Refuses fields below zero; of tuples, with any such, or empty.

    Raises:
      ValueError: if one is.
    """
    for name in names:
        value = getattr(config, name)
        if not numbers_of(value) or min(numbers_of(value)) < 0:
            raise ValueError(f"{name} must not be negative; got {value}.")


def check_positive(config: Any, *names: str, below: float = math.nan) -> None:
    """Refuses fields that are not above zero; of tuples, with any such, or empty.

    Args:
      config: a configuration.
      *names: of its fields.
      below: what they must be less than too, math.inf to have them finite; NaN for no
        limit.

    Raises:
      ValueError: if one is not.
    """
    for name in names:
        value = getattr(config, name)
        numbers = numbers_of(value)
        if not numbers or not all(n > 0 and not n >= below for n in numbers):
            raise ValueError(f"{name} must be positive; got {value}.")


def check_increasing(config: Any, least: int, *names: str) -> None:
    """Refuses tuples that do not strictly increase from `least` or more.

    Raises:
      ValueError: if one does not.
    """
    for name in names:
        values = getattr(config, name)
        if not values or list(values) != sorted(set(values)) or values[0] < least:
            raise ValueError(
                f"{name} must increase from {least} or more; got {values}."
            )


def check_some(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuses names of which some are unknown, or that are none.

    Raises:
      ValueError: if they are.
    """
    given, known = set(given), list(known)
    unknown = sorted(given - set(known))
    if unknown or not given:
        raise ValueError(
            f"{name} must be some of {', '.join(known)}; got "
            f"{', '.join(unknown) or 'none'}."
        )


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Refuses seeds that are none, negative or twice the same.

    Raises:
      ValueError: if they are.
    """
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be some, different, not negative; got {seeds}.")


def check_share(batch_size: int, workers: int) -> None:
    """Refuses a batch that is not the same for every worker, or empty.

    Raises:
      ValueError: if it is.
    """
    if workers < 1 or batch_size < 1 or batch_size % workers:
        near = max(1, batch_size // max(1, workers)) * max(1, workers)
        raise ValueError(
            f"a batch of {batch_size} does not divide evenly among {workers} workers; "
            f"take a positive multiple of their number, such as {near}."
        )


def check_tuning(config: Any) -> None:
    """Refuses a search whose seeds, grid or validation part cannot serve.

    It looks at ``seeds``, ``tune_seeds``, ``split_seed``, ``tune_grid`` and
    ``validation``.

    Raises:
      ValueError: if one cannot.
    """
    if not config.seeds or not config.tune_seeds or not config.tune_grid:
        raise ValueError(
            f"seeds, tune_seeds and tune_grid must not be empty; got {config.seeds}, "
            f"{config.tune_seeds} and {config.tune_grid}."
        )
    check_not_negative(config, "seeds", "tune_seeds", "split_seed")
    if set(config.tune_seeds) & set(config.seeds):
        raise ValueError(
            f"tune_seeds must not be among seeds, {config.seeds}; got "
            f"{config.tune_seeds}."
        )
    if not 0 < config.validation < 1:
        raise ValueError(f"validation must be in (0, 1); got {config.validation}.")


def numbers_of(value: Any) -> tuple[Any, ...]:
    """Returns the numbers of a field that holds one or several."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)
