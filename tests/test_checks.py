"""What configurations refuse, by the checks that they share."""

import math
import types

import pytest

from experiments import _checks

GIVEN = types.SimpleNamespace(
    one=1, several=(1, 3), none=(), low=(0, 2), falls=(3, 1), infinite=math.inf,
    nothing=math.nan, below=-1,
)


@pytest.mark.parametrize(
    ("check", "names", "options"),
    [
        (_checks.check_least, ("several", "one", "infinite"), [1]),
        (_checks.check_not_negative, ("low", "one"), []),
        (_checks.check_positive, ("several", "infinite"), []),
        (_checks.check_increasing, ("several",), [1]),
    ],
)
def test_what_is_allowed_passes(check, names, options):
    check(GIVEN, *options, *names)


@pytest.mark.parametrize(
    ("check", "name", "options", "message"),
    [
        (_checks.check_least, "one", [2], "one must be at least 2; got 1."),
        (_checks.check_least, "low", [1], r"low must be at least 1; got \(0, 2\)."),
        (_checks.check_least, "none", [1], r"none must be at least 1; got \(\)."),
        (_checks.check_not_negative, "below", [], "must not be negative; got -1."),
        (_checks.check_positive, "low", [], r"must be positive; got \(0, 2\)."),
        (_checks.check_positive, "nothing", [], "must be positive; got nan."),
        (_checks.check_increasing, "falls", [1], r"must increase from 1 or more"),
        (_checks.check_increasing, "several", [2], r"must increase from 2 or more"),
    ],
)
def test_what_is_not_says_what_was_given(check, name, options, message):
    with pytest.raises(ValueError, match=message):
        check(GIVEN, *options, name)


def test_positive_may_have_to_be_finite():
    _checks.check_positive(GIVEN, "one", below=math.inf)
    with pytest.raises(ValueError, match=r"infinite must be positive; got inf\."):
        _checks.check_positive(GIVEN, "infinite", below=math.inf)


def test_names_must_be_known_and_some():
    _checks.check_some("methods", ["a"], "ab")
    for given, got in ((["a", "c"], "c"), ([], "none")):
        with pytest.raises(ValueError, match=f"some of a, b; got {got}"):
            _checks.check_some("methods", given, "ab")


def test_seeds_and_batches():
    _checks.check_seeds((0, 1))
    for bad in ((), (-1,), (1, 1)):
        with pytest.raises(ValueError, match="seeds must be some, different"):
            _checks.check_seeds(bad)
    _checks.check_share(8, 2)
    for batch_size, workers in ((8, 3), (0, 1), (8, 0)):
        with pytest.raises(ValueError, match="does not divide evenly"):
            _checks.check_share(batch_size, workers)
