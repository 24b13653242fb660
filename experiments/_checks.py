"""Checks of configurations: what was given, and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any


def check_least(config: Any, least: float, *names: str) -> None:
    """Refuses fields that are less than a number; of tuples, with any such, or empty.

    Raises:
      ValueError: if one is.
    """
    _check_each(config, names, lambda n: not n < least, f"be at least {least}")


def check_not_negative(config: Any, *names: str) -> None:
    """Refuses fields below zero; of tuples, with any such, or empty.

    Raises:
      ValueError: if one is.
    """
    _check_each(config, names, lambda n: not n < 0, "not be negative")


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
    _check_each(config, names, lambda n: n > 0 and not n >= below, "be positive")


def _check_each(
    config: Any, names: Iterable[str], allowed: Callable[[Any], bool], must: str
) -> None:
    for name in names:
        value = getattr(config, name)
        numbers = numbers_of(value)
        if not numbers or not all(map(allowed, numbers)):
            raise ValueError(f"{name} must {must}; got {value}.")


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


def check_given(name: str, given: Iterable[str], needed: Iterable[str]) -> None:
    """Refuses a field of named values that lacks some of those needed.

    Raises:
      ValueError: if it does.
    """
    given, needed = set(given), list(needed)
    lacking = [each for each in needed if each not in given]
    if lacking:
        raise ValueError(
            f"{name} lacks {', '.join(lacking)}: give name=value for every algorithm, "
            f"{', '.join(needed)}."
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
