"""Votes counted by bitwise logic, against NumPy's sums of bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ef_optax.vote._tally import at_least, count

BYTES = 5
RNG = np.random.default_rng(0)


def random_planes(number):
    """So many planes; in one bit all of them vote, in another none."""
    bits = RNG.random((number, 8 * BYTES)) < RNG.random(8 * BYTES)
    bits[:, 0], bits[:, 1] = True, False
    return bits, jnp.asarray(np.packbits(bits, axis=1, bitorder="little"))


def bits_of(plane):
    return np.unpackbits(np.asarray(plane), bitorder="little")


# One after another up to sixteen planes, from then on in a loop.
@pytest.mark.parametrize("number", [1, 2, 3, 8, 16, 17, 100])
def test_every_count_and_bound_is_numpys(number):
    bits, planes = random_planes(number)
    wanted = bits.sum(0)
    digits = jax.jit(count, static_argnums=1)(planes, number)
    assert len(digits) == number.bit_length()
    assert {(d.dtype, d.shape) for d in digits} == {(np.dtype(np.uint8), (BYTES,))}
    found = sum(bits_of(d).astype(int) << k for k, d in enumerate(digits))
    np.testing.assert_array_equal(found, wanted)

    # All that the digits can hold, of which the last is beyond all votes.
    bounds = np.arange(-3, 2 ** len(digits))
    reached = jax.jit(jax.vmap(at_least, (None, 0)))(digits, bounds)
    for bound, plane in zip(bounds, np.asarray(reached), strict=True):
        np.testing.assert_array_equal(bits_of(plane), wanted >= bound)


def test_a_bound_may_be_a_python_number_or_of_any_integer_dtype():
    bits, planes = random_planes(3)
    digits = count(planes, 3)
    for bound in (2, np.int8(2), jnp.uint8(2), jnp.int32(2)):
        np.testing.assert_array_equal(
            bits_of(at_least(digits, bound)), bits.sum(0) >= 2)
    np.testing.assert_array_equal(bits_of(at_least(digits, -(2**31))), 1)


@pytest.mark.parametrize("number", [3, 20])
def test_more_digits_than_the_planes_fill_are_zero(number):
    # A bound beyond all votes needs them.
    bits, planes = random_planes(number)
    digits = count(planes, 4 * number)
    assert len(digits) == (4 * number).bit_length()
    for digit in digits[number.bit_length():]:
        np.testing.assert_array_equal(digit, 0)
    np.testing.assert_array_equal(bits_of(at_least(digits, number)),
                                  bits.sum(0) == number)
    for beyond in (number + 1, 2 ** number.bit_length(), 4 * number):
        np.testing.assert_array_equal(at_least(digits, beyond), 0)


@pytest.mark.parametrize("number", [2, 20])
def test_nothing_to_count_has_no_bytes(number):
    digits = count(jnp.zeros((number, 0), jnp.uint8), number)
    assert all(d.shape == (0,) for d in [*digits, at_least(digits, 1)])
