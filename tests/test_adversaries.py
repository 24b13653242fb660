"""The study of adversaries: what a vote survives, and a mean does not."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract_tools import quick_compilation  # noqa: F401

from experiments import _cli, adversaries
from experiments.adversaries import Attack, Config

AXIS = "workers"


def test_a_vote_survives_fewer_than_half_and_a_mean_not_one(tmp_path, capsys):
    config = Config(
        workers=5, adversaries=(0, 1, 2, 3), attacks=("vote=100", "mean=100"),
        batch_size=40, widths=(16,), epochs=12, seeds=(1,), results=str(tmp_path))
    vote, mean = adversaries.run(config).values()
    assert min(vote[0] + vote[1] + mean[0]) > 85
    assert min(vote[2]) > 50  # two of five still train, more slowly
    assert max(vote[3] + mean[1] + mean[3]) < 30
    out = capsys.readouterr().out
    assert "| EF-signSGD, mean; adversaries send -100 g" in out
    lines = [json.loads(x) for x in (tmp_path / "adversaries/metrics.jsonl").open()]
    assert [(x["method"], x["adversaries"]) for x in lines] == [
        (m, n) for m in ("vote", "mean") for n in (0, 1, 2, 3)]
    assert (tmp_path / "adversaries/figure.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(("method", "factor"), [("vote", 1.0), ("vote", 50.0)])
def test_adversaries_are_the_first_and_only_their_gradients_change(method, factor):
    tx = adversaries.opposed(2, factor, AXIS)
    grads = np.arange(1.0, 9.0).reshape(4, 2).astype(np.float32)
    sent = jax.vmap(
        lambda g: tx.update(g, tx.init(g))[0], axis_name=AXIS)(jnp.asarray(grads))
    np.testing.assert_array_equal(
        sent, grads * np.float32([[-factor], [-factor], [1], [1]]))
    # To a vote it is all the same by how much.
    vote = adversaries.algorithm(Attack(method, factor))(2, AXIS)
    update = jax.vmap(lambda g: vote.update(g, vote.init(g))[0], axis_name=AXIS)(grads)
    np.testing.assert_array_equal(np.sign(update), np.zeros((4, 2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "5"], "does not divide evenly among 5"),
        (["--adversaries", "3,10"], "from 0 to 9, the number of workers; got 10"),
        (["--adversaries", ""], "from 0 to 9"),
        (["--attacks", "vote"], "vote=FACTOR or mean=FACTOR, positive; got 'vote'"),
        (["--attacks", "median=1"], "got 'median=1'"),
        (["--attacks", "mean=-1"], "got 'mean=-1'"),
        (["--attacks", ""], "attacks must not be empty"),
        (["--seeds", "-1"], "seeds not negative"),
    ],
)
def test_bad_options_are_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        _cli.main(["adversaries", *options])
    assert message in capsys.readouterr().err
