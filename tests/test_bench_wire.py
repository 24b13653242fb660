"""The benchmark of the wire on small sizes: what it counts, where it breaks even."""

import json
import math
import subprocess
import sys

import pytest
from processes import ROOT, alone

from experiments import _cli, bench_wire
from experiments._contenders import FLAT
from experiments._distributed import free_port
from experiments.bench_update import resnet50_sizes


def test_processes_started_by_hand_measure_bytes_and_times(tmp_path):
    # As on hosts of their own: rank, count and coordinator end the command.
    command = [
        sys.executable, "-m", "experiments", "bench_wire", "--leaves=3", "--shrink=4",
        "--rounds=2", "--no-torch", "--only=vote packed,two_way",
        "--results", tmp_path,
    ]
    place = ["2", f"127.0.0.1:{free_port()}"]
    with alone():
        processes = [
            subprocess.Popen([*command, str(rank), *place], cwd=ROOT, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for rank in range(2)
        ]
        try:
            texts = [process.communicate(timeout=120)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    assert [process.returncode for process in processes] == [0, 0], texts
    rows = {}
    for line in (tmp_path / "bench_wire/metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        rows[row.pop("synchronisation")] = row
    assert list(rows) == [FLAT, "vote packed", "vote packed two bits",
                          "EF scaled_sign two_way"]
    for name, bits in ((FLAT, 32), ("vote packed", 1), ("vote packed two bits", 2),
                       ("EF scaled_sign two_way", 1)):
        row = rows[name]
        assert row["reported_bits_per_parameter"] == pytest.approx(bits, rel=0.01)
        assert 0 < row["milliseconds"] <= row["median_milliseconds"]
        if row["bits_per_parameter"] is not None:  # barriers are in it
            assert row["bits_per_parameter"] == pytest.approx(bits, rel=0.1)
    summary = (tmp_path / "bench_wire/summary.md").read_text()
    assert summary.strip() in texts[0] and "wins below Gbit/s" in summary


def test_leaves_are_kernels_and_vectors():
    shapes = bench_wire.shapes_of(resnet50_sizes())
    assert [math.prod(shape) for shape in shapes] == resnet50_sizes()
    assert sum(len(shape) == 2 for shape in shapes) == 54
    assert shapes[0] == (7 * 7 * 3, 64) and shapes[-2:] == [(2048, 1000), (1000,)]


def rows(milliseconds, sent):
    return {
        FLAT: {"milliseconds": 300.0, "bytes_per_worker": 100e6},
        "other": {"milliseconds": milliseconds, "bytes_per_worker": sent},
    }


@pytest.mark.parametrize(
    ("milliseconds", "sent", "rate", "expected"),
    [
        (400.0, 3e6, 0.0, 7.76),      # 97 MB less, a tenth of a second more
        (200.0, 3e6, 0.0, math.inf),  # faster where bytes cost nothing
        (400.0, 110e6, 0.0, 0.0),     # neither faster nor smaller
        (200.0, 3e6, 1.0, 0.776 / 0.676),  # 776 ms less to send, 100 ms less in all
        (200.0, None, 0.0, None),
    ],
)
def test_the_break_even_bandwidth(milliseconds, sent, rate, expected):
    measured = rows(milliseconds, sent)
    bench_wire._break_even(measured, rate)
    found = measured["other"]["break_even_gbit"]
    assert found == (expected if expected is None else pytest.approx(expected))


def test_options_survive_the_way_to_the_processes():
    config = bench_wire.Config(workers=0, only=("a", "b c"), torch=False, rate=0.25)
    options = _cli.options_of(config)
    assert _cli.parse(bench_wire.Config, options, "") == config
    ranked = _cli.parse(bench_wire.Config, [*options, "1", "2", "host:3"], "")
    assert ranked.rank == ("1", "2", "host:3")


@pytest.mark.parametrize("bad", [["--rounds", "0"], ["1", "2"], ["1", "2", "host"]])
def test_bad_options_are_refused(bad, capsys):
    with pytest.raises(SystemExit):
        _cli.parse(bench_wire.Config, bad, "")
    text = capsys.readouterr().err
    assert "must be at least 1" in text or "expected RANK COUNT HOST:PORT" in text
