"""worker_mesh, and what over_workers refuses."""

import jax
import jax.numpy as jnp
import optax
import pytest
from contract_tools import structs
from jax.sharding import AbstractMesh, AxisType
from placement_tools import AXIS, PAIR, PARAMS, at, gradients, mesh_of, momentum

import ef_optax as eo

# meshes


def test_a_mesh_has_one_worker_on_each_device():
    devices = jax.devices()
    assert dict(eo.worker_mesh().shape) == {AXIS: len(devices)}
    mesh = eo.worker_mesh(3, "data", axis_type=AxisType.Explicit)
    assert list(mesh.devices) == devices[:3] and mesh.axis_types[0] == AxisType.Explicit
    assert dict(eo.worker_mesh(axis_name=PAIR).shape) == {"hosts": 1, "devices": 8}
    pair = eo.worker_mesh((2, 3), PAIR, devices=devices[::-1])
    assert pair.devices.tolist() == [devices[:4:-1], devices[4:1:-1]]
    assert pair.axis_types == (AxisType.Auto,) * 2


class Device:
    """A device of some process."""

    def __init__(self, process_index, id):
        self.process_index, self.id, self.platform = process_index, id, "cpu"
        self.device_kind = "cpu"


def test_every_process_has_as_many_workers():
    devices = [Device(i % 2, i) for i in range(8)]
    ids = [d.id for d in eo.worker_mesh(4, devices=devices).devices]
    assert ids == [0, 2, 1, 3]
    ids = [d.id for d in eo.worker_mesh(devices=devices[::-1]).devices]
    assert ids == [6, 4, 2, 0, 7, 5, 3, 1]
    pair = eo.worker_mesh(axis_name=PAIR, devices=devices).devices
    assert [[d.id for d in row] for row in pair] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    for count, few in ((3, devices), (10, devices), (None, devices[:3])):
        with pytest.raises(ValueError, match="devices in 2 processes"):
            eo.worker_mesh(count, devices=few)


@pytest.mark.parametrize("count, axis", [
    (0, AXIS), (9, AXIS), ((4,), PAIR), (4, PAIR), ((2, 2), AXIS),
    (None, ("a", "b", "c")),
])
def test_a_mesh_that_cannot_be_is_refused(count, axis):
    with pytest.raises(ValueError):
        eo.worker_mesh(count, axis)


def test_an_abstract_mesh_tells_the_shapes_of_a_state_for_any_number_of_workers():
    tx = momentum(exchange=eo.two_way())
    real = jax.eval_shape(eo.over_workers(tx, mesh_of()).init, PARAMS)
    for count in (4, 100):
        mesh = AbstractMesh((count,), (AXIS,))
        shapes = jax.eval_shape(eo.over_workers(tx, mesh).init, PARAMS)
        assert jax.tree.structure(shapes) == jax.tree.structure(real)
        assert shapes[0].inner.trace["matrix"].shape == (count, 2, 4)
        assert shapes[1].exchange.error["matrix"].shape == (count, -(-8 // count))
        if count == 4:
            assert structs(shapes) == structs(real)


def test_an_abstract_mesh_has_no_devices_for_a_state():
    tx = eo.over_workers(momentum(), AbstractMesh((4,), (AXIS,)))
    with pytest.raises(ValueError, match=r"eval_shape.*worker_mesh"):
        tx.init(PARAMS)


# what is refused


def test_a_mesh_without_the_axis_is_refused():
    vote = eo.majority_vote(AXIS)
    for mesh, axis, error, message in (
        (eo.worker_mesh(4, "data"), AXIS, ValueError, "name='workers'.*has 'data'"),
        (mesh_of(PAIR), AXIS, ValueError, "which has 'devices', 'hosts'"),
        (mesh_of(PAIR), "hosts", ValueError, "axis_name='hosts'.*has 'devices', 'host"),
        (mesh_of(), (), ValueError, "must name axes"),
        (mesh_of(), None, ValueError, "must name axes"),
        ("workers", AXIS, AttributeError, "axis_names"),
    ):
        with pytest.raises(error, match=message):
            eo.over_workers(vote, mesh, axis)
    with pytest.raises(AttributeError):
        eo.over_workers(eo.majority_vote, mesh_of())


def test_gradients_of_one_worker_or_of_too_many_are_refused():
    tx = eo.over_workers(eo.majority_vote(AXIS), mesh_of())
    message = r"leading axis of 4 \(mesh axis 'workers'\).*jax.vmap.*got {}"
    for shape, params, shown in (
        ((2, 3), None, r"\['w'\]: \(2, 3\)"), ((8, 3), None, r".*\(8, 3\)"),
        ((), None, r".*\(\)"), ((4, 3), (4, 3), r".*\(4, 3\) for a parameter"),
    ):
        grads = {"w": jnp.ones(shape), "fine": jnp.ones((4, 2))}
        params = params and {"w": jnp.ones(params), "fine": jnp.ones(2)}
        with pytest.raises(ValueError, match=message.format(shown)) as info:
            tx.update(grads, tx.init(params), params)
        assert "'fine'" not in str(info.value)


def test_a_state_of_another_number_of_workers_is_refused():
    tx = eo.over_workers(momentum(), mesh_of())
    for state in (
        eo.over_workers(momentum(), eo.worker_mesh(2)).init(PARAMS),
        momentum().init(PARAMS),  # of one worker, without the leading axis
    ):
        with pytest.raises(ValueError, match=r"leading axis of 4 in the state.*"
                           r"\[0\].inner.*ef_optax.resize_workers\(state, 4\)"):
            jax.eval_shape(tx.update, at(0, gradients(1)), structs(state), PARAMS)


def refused(tx, message, axis=AXIS, **extra):
    tx = eo.over_workers(tx, mesh_of(axis), axis)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda g: tx.update(g, tx.init(PARAMS), PARAMS, **extra),
                       at(0, gradients(1)))


@pytest.mark.filterwarnings("ignore:.*axis_name is None")  # which warns before that
def test_an_exchange_without_the_axis_is_refused():
    for tx in (eo.ef_sign_sgd(0.1), eo.majority_vote(None), optax.sgd(0.1, 0.9)):
        refused(tx, r"leaves of the updates differ along 'workers': \['half'\].*"
                r"Pass axis_name='workers' to the exchange")
    refused(eo.majority_vote("hosts"), r"axis_name=\('hosts', 'devices'\) to the",
            axis=PAIR)
    tx = eo.over_workers(eo.majority_vote("data"), mesh_of())
    with pytest.raises(NameError, match="axis_name='data' is not bound"):
        tx.update(at(0, gradients(1)), tx.init(PARAMS))


def test_state_before_the_exchange_that_is_not_declared_is_refused():
    refused(optax.chain(optax.trace(0.9), eo.majority_vote(AXIS)),
            r"state differ along.*\[0\].trace\['half'\].*"
            r"ef_optax.local\(..., 'workers'\)")
