"""What crosses, read from the program: how many collectives, of what, how long."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import ef_optax as eo
from experiments.bench_update import resnet50_sizes

AXIS = "workers"
WORKERS = 4
# A dozen leaves: matrices, vectors, scalars, and one of more than 256.
SHAPES = [(3, 5), (7,), (), (8,), (2, 3, 4), (9,), (1,), (16,), (17, 2), (300,), (4, 4),
          ()]
SIZES = [int(np.prod(shape)) for shape in SHAPES]
VECTORS = [len(shape) < 2 for shape in SHAPES]
FLAG = 1
BITS = sum(-(-d // 8) for d in SIZES)  # in bytes, each leaf padded to whole ones
SCALES = 4 * len(SIZES)


def kept(d, k):
    """Bytes of the k largest: values, and positions unless all are kept."""
    return 4 * d if d <= k else k * (4 + (1 if d <= 256 else 2))


def factors(shape, rank):
    """Bytes of the smaller of a matrix of this rank and its two factors."""
    d = int(np.prod(shape))
    if len(shape) < 2:
        return 4 * d
    rows, columns = d // shape[-1], shape[-1]
    return 4 * (min(rank * (rows + columns), d) if rank < min(rows, columns) else d)


def ef(compressor, **kwargs):
    return eo.error_feedback(compressor, axis_name=AXIS, **kwargs)


def compress(compressor, **kwargs):
    return eo.compress(compressor, axis_name=AXIS, **kwargs)


def biases(tree):
    return [jnp.ndim(x) < 2 for x in tree]


# name: (transformation, the collectives as (operation, dtype, elements a worker)).
CROSSINGS = {
    "vote": (eo.majority_vote(AXIS), [("all-reduce", "s8", sum(SIZES) + FLAG)]),
    "vote_sum": (eo.vote_sum(AXIS), [("all-reduce", "s8", sum(SIZES) + FLAG)]),
    "signum": (
        eo.signum(0.1, axis_name=AXIS, weight_decay=0.1),
        [("all-reduce", "s8", sum(SIZES) + FLAG)],
    ),
    "scaled_sign": (ef(eo.scaled_sign()), [("all-gather", "u8", BITS + SCALES + FLAG)]),
    "scaled_sign of the tree": (
        ef(eo.scaled_sign("tree")), [("all-gather", "u8", BITS + 4 + FLAG)],
    ),
    "scaled_sign of blocks": (
        ef(eo.scaled_sign(10)),
        [("all-gather", "u8", BITS + 4 * sum(-(-d // 10) for d in SIZES) + FLAG)],
    ),
    "sign": (compress(eo.sign()), [("all-gather", "u8", BITS + FLAG)]),
    "sign with zeros": (
        compress(eo.sign("zero")), [("all-gather", "u8", 2 * BITS + FLAG)],
    ),
    "top_k": (
        ef(eo.top_k(k=6)),
        [("all-gather", "u8", sum(kept(d, 6) for d in SIZES) + FLAG)],
    ),
    "top_k of the tree": (
        ef(eo.top_k(k=6, per="tree")), [("all-gather", "u8", 6 * (4 + 2) + FLAG)],
    ),
    "random_k": (
        ef(eo.random_k(k=6)),
        [("all-reduce", "f32", sum(min(6, d) for d in SIZES) + FLAG)],
    ),
    "identity": (ef(eo.identity()), [("all-reduce", "f32", sum(SIZES) + FLAG)]),
    "identity, gathered": (
        compress(eo.identity(), exchange=eo.gather()),
        [("all-gather", "u8", 4 * sum(SIZES) + FLAG)],
    ),
    "cast": (ef(eo.cast(jnp.bfloat16)), [("all-gather", "u8", 2 * sum(SIZES) + FLAG)]),
    "k_pca": (
        ef(eo.k_pca(1)), [("all-gather", "u8", sum(factors(s, 1) for s in SHAPES) + 1)],
    ),
    "stochastic_sign": (
        ef(eo.stochastic_sign()), [("all-gather", "u8", BITS + SCALES + FLAG)],
    ),
    "exempt": (
        eo.exempt(ef(eo.scaled_sign()), biases, AXIS),
        [
            ("all-gather", "u8", sum(
                -(-d // 8) + 4 for d, v in zip(SIZES, VECTORS, strict=True) if not v
            ) + FLAG),
            ("all-reduce", "f32", sum(
                d for d, v in zip(SIZES, VECTORS, strict=True) if v) + FLAG),
        ],
    ),
}


def mesh_of(workers):
    return jax.make_mesh((workers,), (AXIS,), devices=jax.devices()[:workers],
                         axis_types=(AxisType.Auto,))


def lower(tx, mode, shapes=SHAPES):
    """One update, state and all, lowered for the workers."""
    grads = [jax.ShapeDtypeStruct((WORKERS, *s), jnp.float32) for s in shapes]

    def update(g):
        params = [jnp.zeros(s) for s in shapes]
        return tx.update(g, tx.init(params), params)[0]

    if mode == "pmap":
        return jax.pmap(update, AXIS, devices=jax.devices()[:WORKERS]).lower(grads)
    return jax.jit(jax.shard_map(
        lambda g: update([x[0] for x in g]), mesh=mesh_of(WORKERS), in_specs=P(AXIS),
        out_specs=P(), check_vma=True)).lower(grads)


def collectives(hlo):
    """Returns (operation, dtype, elements that each worker gives) in a program."""
    found = []
    for line in hlo.splitlines():
        match = re.search(
            r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|"
            r"collective-\w+|ragged-\w+)(-start)?\(", line)
        if match:
            result, operation, _ = match.groups()
            ((dtype, shape),) = re.findall(r"(\w+)\[([\d,]*)\]", result)
            elements = int(np.prod([int(n) for n in shape.split(",")]))
            if operation == "all-gather":
                elements //= WORKERS
            found.append((operation, dtype, elements))
    return sorted(found)


@pytest.mark.parametrize("name", CROSSINGS)
def test_a_fixed_few_collectives_cross_with_just_these_bytes(name):
    tx, expected = CROSSINGS[name]
    assert collectives(lower(tx, "shard_map").as_text("hlo")) == expected
    few = collectives(lower(tx, "shard_map", [(4, 5), (6,)]).as_text("hlo"))
    assert [c[:2] for c in few] == [c[:2] for c in expected]


@pytest.mark.parametrize("name", [
    "vote", "random_k", "identity", "scaled_sign", "k_pca"])
def test_an_empty_leaf_adds_no_collective(name):
    tx, expected = CROSSINGS[name]
    found = collectives(lower(tx, "shard_map", [(4, 5), (0,), (6,)]).as_text("hlo"))
    assert [c[:2] for c in found] == [c[:2] for c in expected]


@pytest.mark.parametrize("name", ["vote", "exempt"])
def test_pmap_and_the_compiled_program_send_the_same(name):
    tx, expected = CROSSINGS[name]
    assert collectives(lower(tx, "pmap").as_text("hlo")) == expected
    assert collectives(lower(tx, "shard_map").compile().as_text()) == expected


def test_the_lines_that_are_read_include_every_kind_of_collective():
    def everything(x):
        x = jax.lax.psum_scatter(x, AXIS, tiled=True)
        x = jax.lax.all_to_all(jnp.tile(x, 4), AXIS, 0, 0, tiled=True)
        return jax.lax.pmax(jax.lax.ppermute(x, AXIS, [(0, 1)]), AXIS)

    text = jax.pmap(everything, AXIS, devices=jax.devices()[:4]).lower(
        np.zeros((4, 8), np.float32)).as_text("hlo")
    assert [c[0] for c in collectives(text)] == [
        "all-reduce", "all-to-all", "collective-permute", "reduce-scatter"]


def test_nothing_crosses_with_one_worker():
    txs = [eo.majority_vote(None), eo.error_feedback(eo.scaled_sign()),
           eo.exempt(eo.error_feedback(eo.random_k(k=2)), biases)]
    params = [jnp.zeros(s) for s in SHAPES[:4]]
    text = jax.jit(
        lambda g: [tx.update(g, tx.init(params), params)[0] for tx in txs]
    ).lower(params).as_text("hlo")
    assert collectives(text) == []


@pytest.mark.parametrize(("workers", "dtype"), [(127, jnp.int8), (128, jnp.int32)])
def test_votes_are_bytes_up_to_127_workers(workers, dtype):
    mesh = jax.sharding.AbstractMesh((workers,), (AXIS,), axis_types=(AxisType.Auto,))
    vote = eo.majority_vote(AXIS)

    def update(g):
        return vote.update(g, vote.init(g))[0]

    jaxpr = jax.make_jaxpr(jax.shard_map(
        update, mesh=mesh, in_specs=P(AXIS), out_specs=P()))(jnp.ones((workers, 3)))
    body = jaxpr.jaxpr.eqns[0].params["jaxpr"]
    (psum,) = [e for e in body.eqns if e.primitive.name.startswith("psum")]
    (operand,) = psum.invars
    assert (operand.aval.dtype, operand.aval.shape) == (dtype, (3 + FLAG,))


# messages, as encode makes them


def message_of(compressor, params):
    """The arrays of one worker's message, as shapes and dtypes."""
    def encode(g):
        state = compressor.init(params)
        return compressor.encode(g, state, eo.Workers(AXIS))[0]

    grads = [jax.ShapeDtypeStruct((WORKERS, *x.shape), x.dtype) for x in params]
    message = jax.eval_shape(jax.vmap(encode, axis_name=AXIS), grads)
    return [jax.ShapeDtypeStruct(m.shape[1:], m.dtype)
            for m in jax.tree.leaves(message)]


@pytest.mark.parametrize(
    ("name", "compressor"),
    [
        ("scaled_sign", eo.scaled_sign()),
        ("scaled_sign of the tree", eo.scaled_sign("tree")),
        ("sign with zeros", eo.sign("zero")),
        ("top_k", eo.top_k(k=6)),
        ("top_k of the tree", eo.top_k(k=6, per="tree")),
        ("random_k", eo.random_k(k=6)),
        ("identity", eo.identity()),
        ("cast", eo.cast(jnp.bfloat16)),
        ("k_pca", eo.k_pca(1)),
        ("stochastic_sign", eo.stochastic_sign()),
    ],
)
def test_the_message_is_what_crosses_but_for_the_flag(name, compressor):
    message = message_of(compressor, [jax.ShapeDtypeStruct(s, jnp.float32)
                                      for s in SHAPES])
    ((operation, dtype, elements),) = CROSSINGS[name][1]
    if operation == "all-gather":
        assert sum(m.size * m.dtype.itemsize for m in message) == elements - FLAG
    else:
        assert {m.dtype for m in message} == {jnp.dtype(jnp.float32)}
        assert (dtype, sum(m.size for m in message)) == ("f32", elements - FLAG)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65_536, "uint16"),
     (65_537, "uint32")],
)
def test_positions_are_in_the_smallest_unsigned_integers(size, dtype):
    leaf = jax.ShapeDtypeStruct((size,), jnp.float32)
    values, positions = message_of(eo.top_k(k=1), [leaf])
    assert (values.dtype, values.shape) == (jnp.float32, (1,))
    assert (positions.dtype, positions.shape) == (dtype, (1,))
    (values,) = message_of(eo.top_k(k=size), [leaf])
    assert values.shape == (size,)


def test_a_message_of_16_bit_gradients_is_of_their_sum_with_the_error():
    # The error is float32, so what is compressed is too; only cast sends 16 bits.
    leaf = jax.ShapeDtypeStruct((16,), jnp.bfloat16)
    (values,) = message_of(eo.cast(jnp.bfloat16), [leaf])
    assert values.dtype == jnp.bfloat16
    grads = jax.ShapeDtypeStruct((WORKERS, 16), jnp.bfloat16)
    for tx, expected in ((ef(eo.identity()), ("all-reduce", "f32", 17)),
                         (ef(eo.cast(jnp.bfloat16)), ("all-gather", "u8", 33))):
        step = functools.partial(lambda tx, g: tx.update(g, tx.init(g))[0], tx)
        text = jax.pmap(step, AXIS, devices=jax.devices()[:WORKERS]).lower(grads)
        assert collectives(text.as_text("hlo")) == [expected]


def test_schedules_and_weight_decay_send_nothing():
    tx = eo.ef_sign_sgd(optax.linear_schedule(0.1, 0.0, 10), axis_name=AXIS,
                        momentum=0.9, weight_decay=1e-4)
    assert collectives(lower(tx, "shard_map").as_text("hlo")) == \
        CROSSINGS["scaled_sign"][1]


@pytest.mark.parametrize(("compressor", "bits"), [
    (eo.scaled_sign(), 1.02), (eo.top_k(fraction=0.01), 0.70),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        (eo.random_k(fraction=0.01), 0.35), (eo.stochastic_sign(key=0), 1.02)))])
def test_messages_of_a_resnet_50_are_as_small_as_they_claim(compressor, bits):
    params = [jax.ShapeDtypeStruct((n,), jnp.float32) for n in resnet50_sizes()]
    workers = eo.Workers("workers")

    def message(grads):
        grads = jax.tree.map(lambda x: x[0], grads)
        out, _, _ = compressor.encode(grads, compressor.init(grads), workers)
        return out

    made = jax.eval_shape(
        jax.vmap(message, axis_name="workers", axis_size=2, in_axes=None, out_axes=0),
        [jax.ShapeDtypeStruct((1, *x.shape), x.dtype) for x in params])
    crossing = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(made)) / 2
    assert 8 * crossing <= bits * sum(x.size for x in params)
