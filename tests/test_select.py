"""Tests of the exact selection of the largest keys."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export, lax
from jax.sharding import Mesh, PartitionSpec

from ef_optax import _select

# Bits of the exponent.
FLOATS = {"float16": 5, "bfloat16": 8, "float32": 8, "float64": 11}


@pytest.fixture
def large(monkeypatch):
    """Send every size through the passes that large sizes take."""
    monkeypatch.setattr(_select, "_SMALL", 0)
    monkeypatch.setattr(_select, "_SMALL_FLOAT", 0)
    monkeypatch.setattr(_select, "_SAMPLE", 64)


@functools.cache
def compiled(d, k, dtype, sample=None, shrink=None):
    """Return a jitted selection, through the large path if given a sample size."""
    del d, dtype  # Only keep apart what is compiled separately.

    def select(keys):
        with pytest.MonkeyPatch.context() as patch:
            if sample is not None:
                patch.setattr(_select, "_SMALL", 0)
                patch.setattr(_select, "_SMALL_FLOAT", 0)
                patch.setattr(_select, "_SAMPLE", sample)
                patch.setattr(_select, "_SHRINK", shrink)
            return _select.largest(keys, k)

    return jax.jit(select)


def expected(keys, k):
    """Return the indices of the k largest, lower indices first among equals."""
    order = np.argsort(~np.asarray(keys), axis=-1, kind="stable")
    return np.sort(order[..., :k], axis=-1)


def bits(x):
    """Return the magnitude bits of a NumPy array, by NumPy."""
    width = 8 * x.dtype.itemsize
    return x.view(f"uint{width}") & np.array(2 ** (width - 1) - 1, f"uint{width}")


def check(indices, keys, k):
    indices, keys = np.asarray(indices), np.asarray(keys)
    assert indices.shape == (k,) and indices.dtype == np.int32
    assert len(set(indices.tolist())) == k
    assert np.all((indices >= 0) & (indices < max(keys.size, 1)))
    top = np.sort(keys)[keys.size - k :]
    np.testing.assert_array_equal(np.sort(keys[indices]), top)
    np.testing.assert_array_equal(np.sort(indices), expected(keys, k))


def kinds(rng, d):
    """Return float32 data of many kinds."""
    normal = rng.standard_normal(d).astype(np.float32)
    special = np.array(
        [0, -0.0, 1e-45, -3e-45, 1e-39, 1, -1, 3e38, -3e38, np.inf, -np.inf, np.nan],
        np.float32,
    )
    return {
        "normal": normal,
        "heavy": rng.standard_cauchy(d).astype(np.float32) ** 3,
        "sparse": np.where(rng.random(d) < 0.01, normal, 0).astype(np.float32),
        "sparser": np.where(rng.random(d) < 0.002, normal, 0).astype(np.float32),
        "equal": np.full(d, -2, np.float32),
        "zeros": np.zeros(d, np.float32),
        "ascending": np.sort(normal),
        "descending": np.sort(normal)[::-1].copy(),
        "levels": rng.integers(-9, 9, d).astype(np.float32),
        "special": rng.choice(special, d),
        "denormal": (normal * np.float32(1e-40)).astype(np.float32),
        "periodic": np.where(np.arange(d) % 64 == 7, 100 * normal, normal),
        "one block": np.where(np.arange(d) < d // 90, normal, normal * 1e-20),
    }


@pytest.mark.parametrize("name", FLOATS)
def test_magnitude_bits_order_as_magnitudes(name):
    with jax.enable_x64(name == "float64"):
        dtype = jnp.dtype(name)
        rng = np.random.default_rng(0)
        x = np.concatenate([rng.standard_normal(99), 10.0 ** np.arange(-8, 5), [0]])
        info = jnp.finfo(dtype)
        edge = [float(info.max), float(info.tiny), float(info.smallest_subnormal)]
        x = np.concatenate([x, edge, [np.inf]]).astype(dtype)
        got = _select.magnitude_bits(jnp.asarray(x))
        width = 8 * dtype.itemsize
        assert got.dtype == jnp.dtype(f"uint{width}")
        np.testing.assert_array_equal(got, bits(x))
        np.testing.assert_array_equal(got, _select.magnitude_bits(jnp.asarray(-x)))
        magnitudes = np.abs(x).astype(np.float64)
        ranks = np.unique(magnitudes, return_inverse=True)[1]
        np.testing.assert_array_equal(
            np.unique(np.asarray(got), return_inverse=True)[1], ranks
        )
        # Infinity has all exponent bits set, and NaN is above it.
        exponent = FLOATS[name]
        assert int(got.max()) == (2**exponent - 1) << (width - 1 - exponent)
        nan = _select.magnitude_bits(jnp.full(1, jnp.nan, dtype))
        assert int(nan[0]) > int(got.max())


@pytest.mark.parametrize(("d", "k"), [
    (20_000, 200), pytest.param(4099, 1900, marks=pytest.mark.slow)])
def test_large_path_on_many_kinds_of_data(d, k, monkeypatch):
    assert d > _select._SMALL
    monkeypatch.setattr(_select, "_SMALL_FLOAT", 0)
    select = jax.jit(lambda x: _select.largest(x, k, _select.magnitude_bits))
    for name, x in kinds(np.random.default_rng(1), d).items():
        try:
            check(select(x), bits(x), k)
        except AssertionError as error:
            raise AssertionError(name) from error
    assert select._cache_size() == 1


@pytest.mark.parametrize("k", [
    1, 1000, *(pytest.param(k, marks=pytest.mark.slow) for k in (37, 1001))])
def test_large_path_with_tiny_sample_and_room(k):
    d = 1001
    select = compiled(d, k, "uint32", 4, d)
    for x in kinds(np.random.default_rng(k), d).values():
        check(select(bits(x)), bits(x), k)


@pytest.mark.parametrize("d", [
    1, 33, *(pytest.param(d, marks=pytest.mark.slow) for d in (2, 31, 32))])
def test_large_path_at_small_sizes(d):
    rng = np.random.default_rng(d)
    for k in {1, d}:
        select = compiled(d, k, "uint8", 8, 4)
        for top in (1, 2, 5, 256):
            keys = rng.integers(256 - top, 256, d).astype(np.uint8)
            check(select(keys), keys, k)
            check(select(~keys), ~keys, k)


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_ties_by_hypothesis(data):
    d, k, dtype, sample = data.draw(
        st.sampled_from(
            [
                (0, 0, "uint32", None),
                (7, 0, "uint32", None),
                (40, 13, "uint16", None),
                (70, 70, "uint8", None),
                (300, 1, "uint16", 16),
                (300, 150, "uint32", 16),
                (257, 30, "uint8", 300),
            ]
        )
    )
    largest_key = np.iinfo(dtype).max
    some = st.integers(0, largest_key)
    values = [*data.draw(st.lists(some, min_size=1, max_size=4)), 0, largest_key]
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    weights = rng.dirichlet(np.full(len(values), 0.3))
    keys = rng.choice(np.array(values, dtype), d, p=weights)
    noisy = data.draw(st.booleans())
    if noisy:
        keys ^= rng.integers(0, 4, d).astype(dtype)
    select = compiled(d, k, dtype, sample, 20)
    check(select(keys), keys, k)


def test_sixty_four_bit_keys(large):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        select = jax.jit(lambda x: _select.largest(x, 90, _select.magnitude_bits))
        for x in (
            rng.standard_normal(3000),
            1 + 1e-15 * rng.standard_normal(3000),
            10.0 ** rng.uniform(-320, 300, 3000),
            np.zeros(3000),
        ):
            indices = select(jnp.asarray(x))
            assert indices.dtype == jnp.int32
            check(indices, bits(x), 90)


@pytest.mark.parametrize("name", [
    "float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_sixteen_bit_floats(large, name):
    x = jnp.asarray(np.random.default_rng(0).standard_normal(3000), name)
    got = jax.jit(lambda x: _select.largest(_select.magnitude_bits(x), 90))(x)
    check(got, bits(np.asarray(x)), 90)


def test_agrees_with_top_k_of_floats():
    x = jnp.asarray(np.random.default_rng(3).standard_normal(30_000), jnp.float32)
    values, indices = jax.jit(lambda x: lax.top_k(jnp.abs(x), 300))(x)
    got = jax.jit(lambda x: _select.largest(_select.magnitude_bits(x), 300))(x)
    np.testing.assert_array_equal(got, np.sort(indices))
    np.testing.assert_array_equal(np.sort(jnp.abs(x[got])), values[::-1])


def test_bad_arguments():
    keys = jnp.zeros(4, jnp.uint32)
    for k in (-1, 5):
        with pytest.raises(ValueError, match="k must be"):
            _select.largest(keys, k)
    huge = jax.ShapeDtypeStruct((2**31,), jnp.uint32)
    with pytest.raises(ValueError, match="jax_enable_x64"):
        jax.eval_shape(lambda keys: _select.largest(keys, 9), huge)


def test_index_type_follows_the_size():
    huge = jax.ShapeDtypeStruct((2**31,), jnp.float32)
    less = jax.ShapeDtypeStruct((2**31 - 1,), jnp.float32)

    def select(x):
        return _select.largest(x, 9, _select.magnitude_bits)

    with jax.enable_x64(True):
        assert jax.eval_shape(select, huge).dtype == jnp.int64
        assert jax.eval_shape(select, less).dtype == jnp.int32
    assert jax.eval_shape(select, less).dtype == jnp.int32


def workers():
    count = min(jax.device_count(), 4)
    if count < 2:
        pytest.skip("needs several devices")
    return count


def rows(count, d=1500):
    """Return a row of data of another kind for each worker."""
    data = list(kinds(np.random.default_rng(5), d).values())
    return np.stack((data * math.ceil(count / len(data)))[:count])


def select_row(x):
    return _select.largest(x, 40, _select.magnitude_bits)


def test_vmap(large):
    x = rows(12)
    got = jax.jit(jax.vmap(select_row, axis_name="workers"))(x)
    np.testing.assert_array_equal(got, expected(bits(x), 40))


def test_pmap(large):
    x = rows(workers())
    got = jax.pmap(select_row, axis_name="workers")(x)
    np.testing.assert_array_equal(got, expected(bits(x), 40))


@pytest.mark.parametrize("small", [
    False, pytest.param(True, marks=pytest.mark.slow)])
def test_shard_map_with_varying_data(large, monkeypatch, small):
    if small:
        monkeypatch.setattr(_select, "_SMALL", 1500)
        monkeypatch.setattr(_select, "_SMALL_FLOAT", 1500)
    count = workers()
    mesh = Mesh(np.array(jax.devices()[:count]), ("workers",))
    spec = PartitionSpec("workers")

    def body(x):
        indices = select_row(x[0])
        return indices[None], lax.psum(jnp.sum(x[0][indices]), "workers")

    def mapped(*out_specs):
        return jax.jit(
            jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=out_specs)
        )

    x = rows(count)
    got, total = mapped(spec, PartitionSpec())(x)
    # The indices are typed as varying, so cannot be taken for replicated.
    with pytest.raises(ValueError, match="out_specs"):
        mapped(PartitionSpec(), PartitionSpec())(x)
    want = expected(bits(x), 40)
    np.testing.assert_array_equal(np.sort(got, axis=-1), want)
    values = np.take_along_axis(x, want, axis=1).astype(np.float64)
    np.testing.assert_allclose(total, values.sum(), rtol=1e-4)


def test_shard_map_with_equal_data(large):
    mesh = Mesh(np.array(jax.devices()[: workers()]), ("workers",))
    spec = PartitionSpec()
    x = rows(1)[0]
    mapped = jax.shard_map(select_row, mesh=mesh, in_specs=spec, out_specs=spec)
    np.testing.assert_array_equal(jax.jit(mapped)(x), expected(bits(x), 40))


@pytest.mark.parametrize("d", [100, 10_000])
def test_lowers_for_every_platform_without_callbacks(d):
    def select(x):
        return _select.largest(_select.magnitude_bits(x), 30)

    x = jax.ShapeDtypeStruct((d,), jnp.float32)
    exported = export.export(jax.jit(select), platforms=["cpu", "cuda", "tpu"])(x)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    calls = re.findall(r"custom_call @(\S+?)\(", exported.mlir_module())
    assert not [call for call in calls if "callback" in call], calls


def test_lazy_keys_are_not_stored():
    d = 2**20
    x = jax.ShapeDtypeStruct((d,), jnp.float32)
    step = jax.jit(lambda x: _select.largest(x, d // 100, _select.magnitude_bits))
    memory = step.lower(x).compile().memory_analysis()
    if memory is None:
        pytest.skip("no memory analysis on this backend")
    assert memory.temp_size_in_bytes < d
