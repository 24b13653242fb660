"""wire_report: bytes sent, read off compiled programs, and what is refused."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import ef_optax as eo
from ef_optax.wire import bytes_sent, read_program
from ef_optax.wire._groups import replica_groups

AXIS = "workers"


def vote_step(workers, axes=(AXIS,), shape=None):
    """A jitted vote over a mesh, and its gradients: a leaf of 33 for each worker."""
    mesh = jax.make_mesh(shape or (workers,), axes, axis_types=(AxisType.Auto,) *
                         len(axes), devices=jax.devices()[:workers])
    vote = eo.majority_vote(axes)

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P(axes), out_specs=P())
    def step(g):
        return vote.update(g[0], vote.init(g[0]))[0]

    return step, jax.ShapeDtypeStruct((workers, 33), jnp.float32)


def test_the_report_compares_with_float32_pmean():
    report = eo.wire_report(*vote_step(4), parameters=33)
    (vote,) = report.collectives
    assert (vote.kind, vote.dtype, vote.size, vote.workers, vote.times) == (
        "all-reduce", "s8", 34, 4, 1)
    assert "psum" in vote.source
    assert report.bytes_sent == report.least_bytes_sent == 2 * 3 / 4 * 34
    assert report.pmean_bytes == 2 * 3 / 4 * 4 * 33
    assert report.bits_per_parameter == pytest.approx(8 * 1.5 * 34 / 33)
    text = str(report)
    assert re.search(r"all-reduce +s8 +34 +4 +1 +51 +jit\(step\)", text)
    assert "each of 4 workers sends 51 bytes" in text
    assert "float32 pmean of 33 parameters: 198 bytes" in text
    assert text.endswith("12.364 bits sent per parameter, 1/3.9 of float32 pmean")
    assert "bytes_sent=51.0" in repr(report)


def test_all_forms_of_a_function_and_of_the_parameters_report_the_same():
    step, grads = vote_step(4)
    compiled = step.lower(grads).compile()
    pmapped = jax.pmap(lambda g: eo.majority_vote(AXIS).update(g, ())[0], AXIS,
                       devices=jax.devices()[:4])
    tree = {"w": jnp.zeros((3, 11))}
    for report in (
        eo.wire_report(lambda g: step(g), grads, parameters=tree),
        eo.wire_report(jax.jit(lambda *, g: step(g)), g=grads, parameters=tree),
        eo.wire_report(compiled, parameters=33),
        eo.wire_report(pmapped, grads, parameters=33),
    ):
        assert (report.bytes_sent, report.parameters) == (51, 33)


def test_without_a_number_of_parameters_nothing_is_compared():
    report = eo.wire_report(*vote_step(2))
    assert "pmean" not in str(report)
    with pytest.raises(ValueError, match="pass parameters= to wire_report"):
        _ = report.bits_per_parameter


def test_one_worker_sends_nothing():
    report = eo.wire_report(lambda x: x + 1, jnp.zeros(3), parameters=3)
    assert (report.bytes_sent, report.pmean_bytes, report.collectives) == (0, 0, ())
    assert "sends 0 bytes" in str(report)
    assert eo.wire_report(*vote_step(1)).bytes_sent == 0


def test_the_group_counts_and_not_all_devices():
    # Votes over one axis of two: groups of 2, and a worker is one of them.
    mesh = jax.make_mesh((2, 4), ("model", AXIS), axis_types=(AxisType.Auto,) * 2)
    step = jax.shard_map(lambda g: jax.lax.psum(g, "model"), mesh=mesh,
                         in_specs=P("model"), out_specs=P())
    report = eo.wire_report(step, jnp.zeros(6))
    assert (report.workers, report.bytes_sent) == (2, 12)
    both = eo.wire_report(*vote_step(8, ("hosts", "devices"), (2, 4)))
    assert (both.workers, both.bytes_sent) == (8, 2 * 7 / 8 * 34)


def test_what_jit_inserts_is_counted_beside_what_the_optimizer_sends():
    # The mean of the workers' losses is an all-reduce that jit finds by itself.
    mesh = eo.worker_mesh(4)
    tx = eo.over_workers(eo.majority_vote(AXIS), mesh)

    @jax.jit
    def step(params, state, x):
        losses, grads = jax.vmap(
            jax.value_and_grad(lambda p, x: jnp.sum(p * x)), (None, 0))(params, x)
        return tx.update(grads, state, params), losses.mean()

    params = jnp.zeros(33)
    x = jax.device_put(jnp.ones((4, 33)), NamedSharding(mesh, P(AXIS)))
    report = eo.wire_report(step, params, tx.init(params), x, parameters=params)
    assert sorted((c.kind, c.dtype, c.size, c.workers) for c in report.collectives) == [
        ("all-reduce", "f32", 4, 4), ("all-reduce", "s8", 34, 4)]
    assert (report.workers, report.bytes_sent) == (4, 51 + 6)


@pytest.mark.parametrize("order", [range(8), (0, 2, 4, 6, 1, 3, 5, 7)])
@pytest.mark.parametrize("axis", ["a", "b"])
def test_the_groups_that_jit_finds_along_one_of_two_axes(axis, order):
    devices = np.array([jax.devices()[i] for i in order]).reshape(2, 4)
    mesh = jax.sharding.Mesh(devices, ("a", "b"))
    x = jax.ShapeDtypeStruct((8, 3), jnp.float32,
                             sharding=NamedSharding(mesh, P(axis)))
    (found,) = eo.wire_report(jax.jit(lambda x: x.sum(0)), x).collectives
    size = mesh.shape[axis]
    assert (found.kind, found.size, found.workers) == ("all-reduce", 12, size)
    # The program numbers devices as the mesh lists them, or by their own number.
    rows = np.array(order).reshape(2, 4)
    places = np.arange(8).reshape(2, 4)
    groups = [{frozenset(group) for group in (grid if axis == "b" else grid.T).tolist()}
              for grid in (rows, places)]
    assert {frozenset(group) for group in found.groups} in groups


def test_every_round_of_a_loop_counts():
    def step(x):
        def once(x, _):
            votes = jax.lax.psum(jnp.sign(x).astype(jnp.int8), "i")
            every = jax.lax.all_gather(x[:2], "i")
            return x + votes + every.sum(), None

        return jax.lax.scan(once, x, length=7)[0]

    mapped = jax.pmap(step, "i", devices=jax.devices()[:4])
    report = eo.wire_report(mapped, jnp.zeros((4, 33)))
    found = {c.kind: (c.size, c.workers, c.times) for c in report.collectives}
    assert found == {"all-reduce": (33, 4, 7), "all-gather": (8, 4, 7)}
    assert report.bytes_sent == 7 * (33 * 2 * 3 / 4 + 3 * 8)


def test_every_kind_that_jax_makes_is_counted():
    def step(x):
        scattered = jax.lax.psum_scatter(jnp.tile(x, 4), "i", tiled=True)
        swapped = jax.lax.all_to_all(jnp.tile(x, 4), "i", 0, 0, tiled=True)
        moved = jax.lax.ppermute(x, "i", [(0, 1), (1, 0), (2, 2)])
        return scattered.sum() + swapped.sum() + moved.sum()

    mapped = jax.pmap(step, "i", devices=jax.devices()[:4])
    report = eo.wire_report(mapped, jnp.zeros((4, 5)))
    assert {c.kind: (c.size, c.workers, c.sent) for c in report.collectives} == {
        "reduce-scatter": (80, 4, 60), "all-to-all": (80, 4, 60),
        "collective-permute": (20, 2, 20)}


def test_of_a_conditional_all_branches_are_reported():
    def step(x, n):
        mean = jax.lax.cond(n > 0, lambda x: jax.lax.psum(x, "i"), lambda x: 2 * x, x)
        return mean + jax.lax.psum(x[0], "i")

    mapped = jax.pmap(step, "i", in_axes=(0, None), devices=jax.devices()[:2])
    compiled = mapped.lower(jnp.zeros((2, 5)), 1).compile()
    report = eo.wire_report(compiled)
    assert (report.least_bytes_sent, report.bytes_sent) == (4, 24)
    assert sorted((c.size, c.conditional) for c in report.collectives) == [
        (4, False), (20, True)]
    assert "≤ 1" in str(report)
    assert "sends 4 to 24 (depending on branches) bytes" in str(report)
    with pytest.raises(ValueError, match="from 4 to 24 bytes"):
        bytes_sent(compiled.as_text())


# Texts of programs, as XLA writes them for other devices too.


def program(line, types=("f32[8]{0}",), before="", header="num_partitions=4"):
    inputs = "\n".join(f"  %a{i} = {t} parameter({i})" for i, t in enumerate(types))
    return (f"HloModule m, {header}\n\n{before}ENTRY %main (x: f32[8]) -> f32[8] {{\n"
            f"{inputs}\n{line}\n}}")


@pytest.mark.parametrize(
    ("line", "types", "sent"),
    [
        ("%r = (f32[3,2]{1,0}, s8[4]{0}) all-reduce(%a0, %a1), replica_groups={}",
         ("f32[3,2]{1,0}", "s8[4]{0}"), 42),
        ("%r = bf16[8]{0} all-reduce-start(%a0), replica_groups=[2,2]<=[4]",
         ("bf16[8]{0}",), 16),
        ("%r = pred[8]{0} all-reduce(pred[8]{0} %a0), "
         "replica_groups=[2,2]<=[2,2]T(1,0)", ("pred[8]{0}",), 8),
        ("%r = (u8[3]{0}, u8[12]{0}) all-gather-start(%a0), replica_groups={}",
         ("u8[3]{0:T(128)}",), 9),
        ("%r = ((u8[3], s8[2]), (u8[12], s8[8]), u32[], u32[]) all-gather-start(%a0, "
         "/*index=1*/%a1), replica_groups={{0,1,2,3}}", ("u8[3]", "s8[2]"), 15),
        ("%r = f32[2]{0} reduce-scatter(%a0), replica_groups={{0,1,2,3}}",
         ("f32[8]{0}",), 24),
        ("%r = (f32[4], f32[1]) reduce-scatter-start(%a0), replica_groups={{0,1,2,3}}",
         ("f32[4]",), 12),
        ("%r = u8[4,2]{1,0} all-to-all(%a0), replica_groups={{0,1},{2,3}}",
         ("u8[4,2]{1,0}",), 4),
        ("%r = (u8[4], u8[4]) all-to-all(%a0, %a1), replica_groups={{0,1},{2,3}}",
         ("u8[4]", "u8[4]"), 4),
        ("%r = f8e4m3fn[9] all-reduce(%a0), replica_groups={{0},{1},{2},{3}}",
         ("f8e4m3fn[9]",), 0),
        ("%r = f32[2]{0} collective-permute(%a0), source_target_pairs={{0,1},{1,0}}",
         ("f32[2]",), 8),
        ("%r = f32[2]{0} collective-permute(%a0), source_target_pairs={{0,0},{1,1}}",
         ("f32[2]",), 0),
        ("%r = f32[8]{0} all-reduce-done(%a0)", ("f32[8]",), 0),
        ("%r = f32[8]{0} add(%all-reduce, %a0)", ("f32[8]",), 0),
    ],
)
def test_bytes_sent_by_each_form_of_a_collective(line, types, sent):
    assert bytes_sent(program("  " + line, types)) == sent


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{}", ()),
        ("{{0,1},{2,3}}", ((0, 1), (2, 3))),
        ("[2,2]<=[2,2]T(1,0)", ((0, 2), (1, 3))),
        ("mesh['a'=2,'b'=2] {'b'}", ((0, 1), (2, 3))),
        ("mesh['a'=2,'b'=1,'c'=2] {'a'}", ((0, 2), (1, 3))),
        ("mesh['a'=2,'b'=2] {'a','b'}", ((0, 1, 2, 3),)),
        ("mesh['a'=4] {}", ((0,), (1,), (2,), (3,))),
        ("mesh[x=2,y=2], device_ids=(0,2,1,3) {x}", ((0, 1), (2, 3))),
        ("mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", ((0, 1), (2, 3))),
        ("mesh['a'=2,'b'=2], device_ids=([4]) {'a'}", ((0, 2), (1, 3))),
        ("mesh['a'=8] {'a':(1)2}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['a'=8] {'a':(2)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("mesh['a'=8] {'a':(2)4}", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("mesh['a'=2] {'c'}", None),
        ("mesh['a'=8] {'a':(3)2}", None),
        ("mesh['a'=8], device_ids=(0,1) {'a'}", None),
        ("@mesh{x}", None),
    ],
)
def test_groups_in_every_form_that_programs_write_them(text, groups):
    line = f"channel_id=1, replica_groups={text}, use_global_device_ids=true"
    assert replica_groups(line) == groups
    assert replica_groups(f"replica_groups={text}") == groups


WRAPPED = """\
%wrapped (p: f32[8]) -> f32[8] {
  %p = f32[8] parameter(0)
  ROOT %r = f32[8] all-to-all(%p), replica_groups={}
}
"""


def test_an_asynchronous_wrapper_counts_once():
    lines = ("  %s = ((f32[8]), f32[8], u32[]) async-start(%a0), calls=%wrapped\n"
             "  %d = f32[8] async-done(%s), calls=%wrapped")
    assert bytes_sent(program(lines, before=WRAPPED)) == 24


LOOP = "  %w = f32[8] while(%a0), condition=%c, body=%wrapped"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (LOOP, "how often all-to-all runs depends on data"),
        ("  %r = f32[8] collective-broadcast(%a0)", "bytes of collective-broadcast"),
        ("  %r = f32[8] ragged-all-to-all(%a0)", "bytes of ragged-all-to-all"),
        ("  %r = (f32[8], u32[], token[]) send(%a0, %t)", "bytes of send"),
        ("  %r = f32[8] all-reduce(%b)", "cannot read the operand b"),
        ("  %r = f32[9] all-reduce(%a0)", "one of the three is misread"),
        ("  %r = f32[8] all-reduce(%a0), replica_groups=@mesh{x}", "groups of r"),
        ("  %r = f32[8] all-reduce(%a0), replica_groups={{0,1},{2}}", "unlike numbers"),
    ],
)
def test_what_cannot_be_counted_is_refused(line, message):
    before = WRAPPED + "%c (p: f32[8]) -> pred[] {\n  %p = f32[8] parameter(0)\n}\n"
    with pytest.raises(ValueError, match=message):
        read_program(program(line, before=before))


def test_arrays_and_texts_that_cannot_be_counted_are_refused():
    for dtype in ("s4[8]", "f32[<=8]"):
        with pytest.raises(ValueError, match="cannot count the bytes"):
            read_program(program("  %r = f32[8] all-reduce(%a0)", (dtype,)))
    with pytest.raises(ValueError, match="not the text of one compiled program"):
        read_program("")
    with pytest.raises(ValueError, match="lists no groups"):
        read_program(program("  %r = f32[8] all-reduce(%a0)",
                             header="replica_count=2, num_partitions=2"))


def test_arguments_of_the_wrong_kind_are_refused_by_jax_and_python():
    with pytest.raises(TypeError):
        eo.wire_report(3)
    with pytest.raises(AttributeError):
        eo.wire_report(lambda x: x, jnp.zeros(3), parameters="many")
