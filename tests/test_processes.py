"""Workers in real processes over the loopback: the same bits, few bytes, any end."""

import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from contract_tools import quick_compilation  # noqa: F401
from process_child import TRAFFIC, a_thousand_steps, replicas, results
from processes import ROOT, alone, group, measure

import ef_optax as eo
from experiments import _cli, distributed
from experiments._registry import StudyError

WORKERS = 4
counted = pytest.mark.skipif(
    not pathlib.Path("/proc/net/dev").exists(),
    reason="this system counts no bytes in /proc/net/dev")


# What processes compute and send.


@pytest.fixture(scope="module")
def measured():
    """What four processes of one worker each measured, all in one start."""
    return measure("everything", WORKERS)


def test_two_hundred_steps_of_four_processes_have_the_bits_of_one_process(measured):
    # Within each process the checksums of all were compared every 50 steps.
    virtual = replicas(eo.worker_mesh(WORKERS))
    assert len(virtual) == 4
    assert [one["replicas"] for one in measured] == [virtual] * WORKERS


@pytest.mark.slow
def test_a_thousand_steps_of_four_processes_have_the_bits_of_one_process():
    virtual = a_thousand_steps(eo.worker_mesh(WORKERS))
    assert measure("a_thousand_steps", WORKERS) == [virtual] * WORKERS


def test_two_processes_of_two_devices_get_the_bits_of_one_process():
    virtual = results(eo.worker_mesh(WORKERS))
    assert measure("results", 2, devices=2) == [virtual] * 2


@counted
@pytest.mark.parametrize("way", TRAFFIC)
def test_the_report_says_what_the_interface_counts(measured, way):
    found = measured[0]["traffic"][way]
    assert found["loopback"] > 10e6
    assert found["loopback"] == pytest.approx(found["report"], rel=0.02)


@counted
@pytest.mark.parametrize(
    ("way", "bits"), [("packed_vote", 1.03 * 2 * 3 / 4), ("two_way", 1.03 * 2 * 3 / 4),
                      ("gather", 1.03 * 3)])
def test_few_bits_cross_for_a_parameter(measured, way, bits):
    floats, rounds = TRAFFIC[way]
    sent = measured[0]["traffic"][way]["loopback"] / WORKERS
    assert 8 * sent / floats / rounds <= bits


# A training that is stopped, killed, and gone on with.

OPTIONS = ("--widths", "16", "--steps", "60", "--every", "7", "--log-every", "1")


def train(directory, *options, virtual=2):
    """Trains in this process."""
    config = _cli.parse(distributed.Config, [
        *OPTIONS, *map(str, options), "--virtual", str(virtual),
        "--results", str(directory)], "")
    return distributed.run(config)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"))["digest"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Checkpoints of a training that was stopped after 15 of its 60 steps."""
    path = tmp_path_factory.mktemp("stopped")
    train(path, "--checkpoints", str(path / "c"), "--steps", "15")
    return path / "c"


def copy_of(stopped, directory):
    return "--checkpoints", shutil.copytree(stopped, directory / "c")


def test_a_training_that_goes_on_has_the_bits_of_one_that_never_stopped(
    stopped, tmp_path, uninterrupted
):
    out = train(tmp_path, *copy_of(stopped, tmp_path))
    assert (out["from_step"], out["digest"]) == (14, uninterrupted)


def test_another_number_of_workers_is_refused_and_resized(stopped, tmp_path):
    kept = copy_of(stopped, tmp_path)
    with pytest.raises(StudyError, match=r"2.*3.*resize_workers\(state, 3\)"):
        train(tmp_path, *kept, virtual=3)
    out = train(tmp_path, *kept, "--resize", virtual=3)
    assert (out["from_step"], out["workers"]) == (14, 3)
    assert out["test_accuracy"] > 50


def test_checkpoints_of_another_optimizer_are_refused(stopped, tmp_path):
    with pytest.raises(StudyError, match="optimizer"):
        train(tmp_path, *copy_of(stopped, tmp_path), "--optimizer", "mean")


def kill_once(directory, rng):
    """Starts or goes on with a training of two processes, and kills one of them.

    Returns where, or None if the training ended before.
    """
    command = ["-m", "experiments", "distributed", *OPTIONS,
               "--checkpoints", directory / "c", "--results", directory]
    wanted, victim = rng.randrange(1, 60), rng.randrange(2)
    with group(command, 2) as processes:
        first = processes.processes[0]
        for line in first.stdout:
            step = re.match(r"step (\d+) ", line)
            if step and int(step[1]) >= wanted:
                break
        else:
            assert processes.wait(grace=10, timeout=120) == 0
            return None
        time.sleep(rng.uniform(0, 0.02))
        killed = processes.processes[victim]
        if killed.poll() is None:
            killed.send_signal(signal.SIGKILL)
        survivor = processes.processes[1 - victim]
        # Its pipe is emptied, lest it wait for that.
        text, _ = survivor.communicate(timeout=120)
        if killed.wait() == 0:
            return None
        assert survivor.returncode != 0, f"at {wanted}: the other ended well: {text}"
        return step[0] + f"killed {victim}: {text[-300:]}"


def finish(directory):
    """Goes on with a training of two processes to its end; returns its digest."""
    command = ["-m", "experiments", "distributed", *OPTIONS,
               "--checkpoints", directory / "c", "--results", directory]
    with group(command, 2) as processes:
        texts = [p.communicate(timeout=120)[0] for p in processes.processes]
        assert processes.wait(grace=0) == 0, texts
    (line,) = (directory / "distributed/metrics.jsonl").read_text().splitlines()
    return json.loads(line)["digest"]


def test_a_killed_worker_ends_the_others_and_the_restart_has_the_same_bits(
    tmp_path, uninterrupted
):
    seed = int.from_bytes(os.urandom(4), "big")
    with alone():
        where = kill_once(tmp_path, random.Random(seed))
        assert finish(tmp_path) == uninterrupted, (seed, where)


@pytest.mark.slow
def test_killed_at_twenty_points(tmp_path, uninterrupted):
    rng, kills = random.Random(20), []
    for number in range(40):
        # Each point of a training of its own, so that each restart is looked at.
        directory = tmp_path / str(number)
        directory.mkdir()
        with alone():
            where = kill_once(directory, rng)
            assert finish(directory) == uninterrupted, where
        kills += [where] if where else []
        if len(kills) == 20:
            return
    raise AssertionError(f"only {len(kills)} kills struck")


# The launcher.


def launch(*arguments, timeout=60):
    return subprocess.run(
        [sys.executable, "-m", "experiments", "launch", *arguments], cwd=ROOT,
        capture_output=True, text=True, timeout=timeout)


def test_the_launcher_runs_all_and_tells_them_apart():
    code = ("import os; print(os.environ['OMPI_COMM_WORLD_RANK'], 'of', "
            "os.environ['OMPI_COMM_WORLD_SIZE'], os.environ['JAX_NUM_CPU_DEVICES'])")
    out = launch("-n", "3", "--devices", "2", "--", "-c", code)
    assert out.returncode == 0
    assert sorted(out.stdout.splitlines()) == [
        "[0] 0 of 3 2", "[1] 1 of 3 2", "[2] 2 of 3 2"]


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [("sys.exit(7)", 7, "process 1 ended with exit code 7"),
     ("os.kill(os.getpid(), 9)", 137, "process 1 ended by SIGKILL")])
def test_when_one_fails_the_others_are_ended(end, code, said):
    child = ("import os, sys, time\nif os.environ['OMPI_COMM_WORLD_RANK'] == '1': "
             f"{end}\ntime.sleep(50)")
    out = launch("-n", "2", "--grace", "0.3", "--", "-c", child, timeout=30)
    assert out.returncode == code
    assert said in out.stderr


def test_an_interrupt_ends_all(tmp_path):
    child = ("import os, pathlib, time\n"
             "pathlib.Path(os.environ['OMPI_COMM_WORLD_RANK'])"
             ".write_text(str(os.getpid())); time.sleep(50)")
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments", "launch", "-n", "2", "--", "-c", child],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    paths = [tmp_path / "0", tmp_path / "1"]
    until = time.monotonic() + 30
    while not all(p.exists() and p.read_text() for p in paths):
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    for path in paths:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def test_what_cannot_be_launched_says_why():
    assert "no-such-program" in launch("--", "no-such-program").stderr
    assert "which command?" in launch("-n", "2").stderr
    assert "at least 1" in launch("-n", "0", "--", "true").stderr


def test_a_process_on_its_own_is_told_how_to_start():
    out = subprocess.run(
        [sys.executable, "-m", "experiments", "distributed"], cwd=ROOT,
        capture_output=True, text=True, timeout=60)
    assert out.returncode == 2
    assert "launch -n 2" in out.stderr


