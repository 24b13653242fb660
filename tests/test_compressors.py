"""What each compressor sends, keeps and loses, and the constants proven for it."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ef_optax as eo
from ef_optax import Workers
from ef_optax._packing import pack_bits, packed_size, unpack_bits

SHAPES = {"empty": (0, 3), "m": (4, 6), "s": (), "v": (13,)}

# Name -> (compressor of a key, whether C(x) + rest gives back x to the last bit).
COMPRESSORS = {
    "identity": (lambda key: eo.identity(), True),
    "sign": (lambda key: eo.sign(), False),
    "sign, positive": (lambda key: eo.sign("positive"), False),
    "scaled sign": (lambda key: eo.scaled_sign(), False),
    "scaled sign, tree": (lambda key: eo.scaled_sign("tree", "positive"), False),
    "scaled sign, blocks": (lambda key: eo.scaled_sign(5), False),
    "scaled sign, random": (
        lambda key: eo.scaled_sign(zero="random", key=key), False),
    "top-k": (lambda key: eo.top_k(k=3), True),
    "top-k, tree": (lambda key: eo.top_k(fraction=0.2, per="tree"), True),
    "random-k": (lambda key: eo.random_k(k=3, key=key), True),
    "k-PCA": (lambda key: eo.k_pca(2), False),
    "stochastic sign": (lambda key: eo.stochastic_sign(key), False),
    "bfloat16": (lambda key: eo.cast(jnp.bfloat16), True),
    "float16": (lambda key: eo.cast(jnp.float16), False),
}
FIXED = ["identity", "scaled sign", "scaled sign, tree", "scaled sign, blocks",
         "scaled sign, random", "top-k", "top-k, tree", "k-PCA", "bfloat16"]
KINDS = ["normal", "cubed", "t", "sparse", "one", "zero", "equal", "denormal",
         "tiny", "huge", "largest"]


def leaf(kind, shape, rng):
    x = rng.standard_normal(shape)
    most = 0.99 * np.finfo(np.float32).max / max(x.size, 1)
    made = {
        "normal": x,
        "cubed": x**9,
        "t": rng.standard_t(1.1, shape),
        "sparse": x * (rng.random(shape) < 0.2),
        "one": x * (np.arange(x.size).reshape(shape) == x.size // 2),
        "zero": 0 * x,
        "equal": np.sign(x) / 3,
        "denormal": x * 1e-41,
        "tiny": x * 1e-36,
        "huge": x * 1e30,
        "largest": most * np.tanh(5 * x),
    }[kind]
    return np.asarray(made, np.float32)


@st.composite
def trees(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return {n: leaf(draw(st.sampled_from(KINDS)), s, rng) for n, s in SHAPES.items()}


@functools.cache
def all_compressed(dtype):
    """One compiled function that applies every compressor to a tree."""

    def apply(tree, seed):
        tree = jax.tree.map(lambda x: x.astype(dtype), tree)
        out = {}
        for name, (make, _) in COMPRESSORS.items():
            compressor = make(jax.random.key(seed))
            state = compressor.init(tree)
            message, shared, after = compressor.encode(tree, state, Workers(None))
            sent = compressor.decode(message, shared)
            direct, state = compressor.update(tree, state)
            rest = jax.tree.map(jnp.subtract, tree, sent)
            chex.assert_trees_all_equal_shapes_and_dtypes(sent, direct, tree)
            out[name] = (sent, direct, rest, after, state)
        return tree, out

    return jax.jit(apply)


def flat(tree):
    return np.concatenate([np.ravel(x).astype(np.float64) for x in tree.values()])


@pytest.mark.parametrize("dtype", [
    "float32", "bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_what_is_sent_and_what_is_left_give_back_the_input(dtype):
    run = all_compressed(dtype)
    # XLA's CPU may take smaller numbers for 0, or not, as it happens to fuse.
    tiny = float(jnp.finfo(dtype).tiny)

    @settings(max_examples=60 if dtype == "float32" else 25, deadline=None)
    @given(trees(), st.integers(0, 1000))
    def check(tree, seed):
        most = float(jnp.finfo(dtype).max) / 64
        tree = {n: np.clip(x, -most, most) for n, x in tree.items()}
        given_, out = jax.device_get(run(tree, seed))
        x = flat(given_)
        normal = (x == 0) | (np.abs(x) >= tiny)
        for name, (sent, direct, rest, after, state) in out.items():
            np.testing.assert_array_equal(flat(direct)[normal], flat(sent)[normal])
            chex.assert_trees_all_equal(state, after)
            c, r = flat(sent), flat(rest)
            assert np.isfinite(c).all(), name
            scale = np.maximum(np.abs(x), np.abs(c))
            slack = 0 if COMPRESSORS[name][1] else float(jnp.finfo(dtype).eps) * scale
            assert (np.abs(c + r - x) <= slack + tiny).all(), name
            lost = ((c - x) ** 2).sum()
            room = 1e-5 if dtype == "float32" else 0.02
            if name in FIXED:  # the rest contract in expectation, or not at all
                delta = COMPRESSORS[name][0](0).contraction(given_)
                allowed = (1 - delta + room) * (x**2).sum()
                assert lost <= allowed + x.size * tiny**2, name

    check()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_gives_nan_everywhere_and_keeps_the_state(bad):
    rng = np.random.default_rng(0)
    for name in ("m", "s", "v"):
        tree = {n: leaf("normal", s, rng) for n, s in SHAPES.items()}
        tree[name].flat[-1] = bad
        _, out = jax.device_get(all_compressed("float32")(tree, 5))
        for _, direct, _, _, state in out.values():
            assert np.isnan(flat(direct)).all()
            if state:
                assert state.count == 0


def messages(make, shapes, dtype=jnp.float32):
    """Returns dtype and shape of every array that crosses, with an axis bound."""

    def encode(tree):
        compressor = make()
        return compressor.encode(tree, compressor.init(tree), Workers("w"))[0]

    tree = [jax.ShapeDtypeStruct((2, *s), dtype) for s in shapes]
    out = jax.eval_shape(jax.vmap(encode, axis_name="w"), tree)
    return [(x.dtype.name, x.shape[1:]) for x in jax.tree.leaves(out)]


U1, F4 = "uint8", "float32"


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (eo.identity, [(F4, (4, 6)), (F4, (13,)), (F4, ())]),
        (eo.sign, [(U1, (3,)), (U1, (2,)), (U1, (1,))]),
        (lambda: eo.sign("zero"), [(U1, (n,)) for n in (3, 3, 2, 2, 1, 1)]),
        (eo.scaled_sign, [(U1, (3,)), (U1, (2,)), (U1, (1,))] + 3 * [(F4, ())]),
        (lambda: eo.scaled_sign("tree"),
         [(U1, (3,)), (U1, (2,)), (U1, (1,)), (F4, ())]),
        (lambda: eo.scaled_sign(5),
         [(U1, (3,)), (U1, (2,)), (U1, (1,)), (F4, (5,)), (F4, (3,)), (F4, (1,))]),
        (lambda: eo.top_k(k=2), [(F4, (2,)), (U1, (2,)), (F4, (2,)), (U1, (2,)),
                                 (F4, (1,))]),
        (lambda: eo.top_k(k=2, per="tree"), [(F4, (2,)), (U1, (2,))]),
        (lambda: eo.random_k(k=2), [(F4, (2,)), (F4, (2,)), (F4, (1,))]),
        (lambda: eo.k_pca(1), [(F4, (4, 1)), (F4, (1, 6)), (F4, (13,)), (F4, ())]),
        (lambda: eo.k_pca(3), [(F4, (4, 6)), (F4, (13,)), (F4, ())]),
        (eo.stochastic_sign, [(U1, (3,)), (U1, (2,)), (U1, (1,))] + 3 * [(F4, ())]),
        (lambda: eo.cast("bfloat16"), [("bfloat16", s) for s in ((4, 6), (13,), ())]),
    ],
)
def test_messages_are_in_the_dtypes_and_shapes_that_cross(make, wanted):
    assert messages(make, [(4, 6), (13,), ()]) == wanted


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")])
def test_indices_are_in_the_smallest_unsigned_integers(size, dtype):
    assert messages(lambda: eo.top_k(k=1), [(size,)])[1] == (dtype, (1,))


@pytest.mark.parametrize(
    ("amount", "size", "k"),
    [({"fraction": 0.01}, 10, 1), ({"fraction": 0.01}, 100, 1),
     ({"fraction": 0.011}, 100, 2), ({"fraction": 0.07}, 100, 7),
     ({"fraction": 0.5}, 7, 4), ({"fraction": 1.0}, 5, 5), ({"fraction": 1}, 5, 5),
     ({"k": 3}, 100, 3), ({"k": 7}, 5, 5)])
def test_k_is_the_fraction_rounded_up_and_at_most_the_leaf(amount, size, k):
    for make in (eo.top_k, eo.random_k):
        assert messages(lambda m=make: m(**amount), [(size,)])[0] == ("float32", (k,))


def compressed(compressors, x):
    """Applies each of several compressors, compiled together."""
    return jax.device_get(jax.jit(
        lambda x: [c.update(x, c.init(x))[0] for c in compressors])(x))


def test_alphabets_and_amounts():
    x = jax.random.normal(jax.random.key(0), (6, 50)).at[0, :3].set(0.0)
    signs = compressed([eo.sign(), eo.sign("positive")], x)
    assert [set(np.unique(s)) for s in signs] == [{-1, 0, 1}, {-1, 1}]
    scaled = [eo.scaled_sign(), eo.scaled_sign(zero="positive"),
              eo.scaled_sign(80, "positive"), eo.stochastic_sign(0)]
    assert [len(np.unique(c)) for c in compressed(scaled, x)] == [3, 2, 8, 2]
    amounts = [1, 7, 299]
    sparse = [make(k=k) for make in (eo.top_k, eo.random_k) for k in amounts]
    assert [np.count_nonzero(c) for c in compressed(sparse, x + 9)] == 2 * amounts
    low = compressed([eo.k_pca(1), eo.k_pca(3)], x)
    assert [np.linalg.matrix_rank(c, tol=1e-4) for c in low] == [1, 3]


def test_signs_of_zero():
    x = jnp.zeros(20_000).at[0].set(2.0)
    default, zero, positive, fair = compressed(
        [eo.sign(), eo.sign("zero"), eo.sign("positive"), eo.sign("random", key=3)], x)
    assert (default[1:] == 0).all() and (zero[1:] == 0).all()
    assert (positive[1:] == 1).all()
    assert set(np.unique(fair)) == {-1, 1}
    assert abs(fair.mean()) < 5 / math.sqrt(x.size)
    # A leaf of nothing but zeros has scale 0.
    scaled = [eo.scaled_sign(zero=z) for z in ("zero", "positive")]
    for zeros in compressed([*scaled, eo.scaled_sign(zero="random", key=0)], 0 * x):
        assert (zeros == 0).all()


def test_where_a_message_crosses_the_sign_of_zero_is_positive_by_default():
    tx = eo.compress(eo.sign(), axis_name="w")
    one = jax.vmap(lambda g: tx.update(g, tx.init(g))[0], axis_name="w")
    assert (one(jnp.zeros((2, 3))) == 1).all()


def test_of_equal_magnitudes_top_k_keeps_exactly_k_the_same_every_time():
    x = jnp.array([1.0, -1.0, 1.0, 0.5, -1.0, 1.0])
    tx = eo.top_k(k=3)
    (first,) = compressed([tx], x)
    assert np.count_nonzero(first) == 3
    assert (np.abs(first[first != 0]) == 1).all()
    np.testing.assert_array_equal(tx.update(x, tx.init(x))[0], first)


def test_blocks_and_a_short_last_one_have_scales_of_their_own():
    x = jax.random.normal(jax.random.key(1), (3, 4))
    wanted = oracles.mean_sign_blocks(np.asarray(x, np.float64), 5)
    np.testing.assert_allclose(compressed([eo.scaled_sign(5)], x)[0], wanted, rtol=1e-6)


def test_k_pca_is_the_best_approximation_of_numpy():
    # The docstring's choice: all but the last axis are rows; vectors go raw.
    shapes = [(3, 3, 4, 5), (2, 6, 4), (6, 3), (3, 6), (1, 4), (9,), ()]
    rng, ranks = np.random.default_rng(2), (1, 2, 5)
    x = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    for rank, got in zip(ranks, compressed(map(eo.k_pca, ranks), x), strict=True):
        wanted = [oracles.best_rank(a.astype(np.float64), rank) for a in x]
        chex.assert_trees_all_close(got, wanted, rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    ("dtype", "most"),
    [("float16", 65504), ("float8_e4m3fn", 448)])
def test_cast_stays_at_the_largest_number_and_feedback_sends_the_rest(dtype, most):
    most = np.float32(most)
    x = np.float32([-2.5 * most, 1.0])
    tx = eo.ef_sgd(1.0, eo.cast(dtype))
    state, sent = tx.init(x), []
    for g in (-x, 0 * x, 0 * x, 0 * x):
        updates, state = jax.jit(tx.update)(g, state)
        sent.append(np.asarray(updates, np.float64))
    np.testing.assert_array_equal(sent[0], [-most, 1])
    np.testing.assert_array_equal(sum(sent), x)


def test_cast_to_bfloat16_stays_at_its_largest_number():
    (out,) = compressed([eo.cast("bfloat16")], np.float32([-3.4e38, 1.0]))
    np.testing.assert_array_equal(out, np.float32([-3.3895314e38, 1.0]))


def test_cast_of_bfloat16_to_float16_saturates_too():
    # 65504 in bfloat16 would be 65536, float16's infinity.
    (out,) = compressed([eo.cast("float16")], jnp.full(2, 1e9, jnp.bfloat16))
    assert np.isfinite(out.astype(np.float32)).all()


def test_bits_survive_packing_whatever_their_number():
    rng = np.random.default_rng(0)
    all_bits = [rng.random(n) < 0.5 for n in (0, 1, 3, 7, 8, 9, 15, 16, 17, 65, 1001)]

    @jax.jit
    def there_and_back(all_bits):
        packed = [pack_bits(b) for b in all_bits]
        return packed, [unpack_bits(p, b.shape)
                        for p, b in zip(packed, all_bits, strict=True)]

    packed, back = there_and_back(all_bits)
    chex.assert_trees_all_equal(back, all_bits)
    wanted = [np.packbits(b, bitorder="little") for b in all_bits]
    chex.assert_trees_all_equal(packed, wanted)
    assert [len(p) for p in packed] == [packed_size(b.size) for b in all_bits]
