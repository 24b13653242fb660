"""What may be published of a study's results, and what is refused."""

import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image
from results_tools import make, studies  # noqa: F401

from experiments import _cli, _results, _thin, publish
from experiments._registry import StudyError

pytestmark = pytest.mark.usefixtures("studies")


def published(tmp_path, *names, **options):
    config = publish.Config(
        names=names or ("toy",), results=str(tmp_path / "results"),
        output=str(tmp_path / "published"), **options)
    return publish.run(config)[0]


def made(tmp_path, name="toy", **options):
    return make(tmp_path / "results", name, **options)


def contents(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


def test_what_is_published_has_all_but_places(tmp_path):
    before = made(tmp_path, data_dir="/data/mnist")
    (before / "checkpoint.bin").write_bytes(b"large")
    path = published(tmp_path)
    assert sorted(contents(path)) == [
        "config.json", "figure.png", "figure_more.png", "metrics.jsonl", "summary.md",
        "verdicts.json"]
    saved = json.loads((path / "config.json").read_text())
    assert saved["config"] == {"slope": -0.5, "seeds": [1, 2]}
    assert saved["command"] == "python -m experiments toy"
    for name in ("verdicts.json", "summary.md", "figure.png"):
        assert (path / name).read_bytes() == (before / name).read_bytes()
    for content in contents(path).values():
        assert os.fsencode(tmp_path) not in content and b"/data" not in content


def test_publishing_again_leaves_no_old_files(tmp_path):
    made(tmp_path)
    path = published(tmp_path)
    (path / "figure_old.png").write_bytes(b"")
    first = contents(path)
    published(tmp_path)
    assert contents(path).keys() == first.keys() - {"figure_old.png"}


@pytest.mark.parametrize("commit", ["unknown", "abc+", "abc, def+", "def+, abc"])
def test_code_that_is_in_no_commit_is_refused(commit, tmp_path, monkeypatch):
    monkeypatch.setattr(_results, "commit", lambda: commit)
    made(tmp_path)
    with pytest.raises(StudyError, match="in no commit"):
        published(tmp_path)
    assert not (tmp_path / "published").exists()
    assert published(tmp_path, allow_dirty=True).is_dir()


def test_several_clean_commits_are_published(tmp_path, monkeypatch):
    monkeypatch.setattr(_results, "commit", lambda: "abc, def")
    made(tmp_path)
    assert published(tmp_path).is_dir()


def test_results_of_another_configuration_need_replace(tmp_path):
    made(tmp_path)
    before = contents(published(tmp_path))
    made(tmp_path / "more", slope=-1.0)
    config = publish.Config(
        names=("toy",), results=str(tmp_path / "more/results"),
        output=str(tmp_path / "published"))
    with pytest.raises(StudyError, match=r"another configuration.*\(other slope\)"):
        publish.run(config)
    assert contents(tmp_path / "published/toy") == before
    published(tmp_path / "more", replace=True)


def test_all_or_none_are_published(tmp_path):
    made(tmp_path)
    made(tmp_path, "toy_open", finish=False)
    with pytest.raises(StudyError, match=r"toy_open has no verdicts"):
        published(tmp_path, "toy", "toy_open")
    assert not (tmp_path / "published").exists()


@pytest.mark.parametrize(
    ("file", "message"),
    [("summary.md", "cannot read"), ("metrics.jsonl", "cannot read"),
     ("config.json", "missing or damaged"), ("verdicts.json", "no verdicts"),
     ("figure_more.png", "shows claim 'image'")],
)
def test_missing_files_are_named(file, message, tmp_path):
    (made(tmp_path) / file).unlink()
    with pytest.raises(StudyError, match=message) as refused:
        published(tmp_path)
    assert file in str(refused.value) or file == "verdicts.json"


@pytest.mark.parametrize("secret", [
    "/home/somebody/data", "at '/tmp/x'", "(/Users/me/x)", "C:\\Users", "/work/cifar"])
def test_paths_of_this_machine_are_not_published(secret, tmp_path):
    made(tmp_path, text=f"Data from {secret}.")
    with pytest.raises(StudyError, match=r"summary\.md names a directory"):
        published(tmp_path)


def test_places_are_not_published_wherever_they_stand(tmp_path):
    made(tmp_path, text="Data from /elsewhere/mnist.", data_dir="/elsewhere/mnist")
    with pytest.raises(StudyError, match="'/elsewhere/mnist'"):
        published(tmp_path)


def test_what_looks_like_a_path_but_is_none_is_published(tmp_path):
    made(tmp_path, text="See https://a.b/home/x, 1/var/n, γ/d and results/home/x.")
    assert published(tmp_path).is_dir()


def test_a_criterion_that_has_changed_since_is_told(tmp_path, capsys):
    path = made(tmp_path)
    published(tmp_path)
    assert capsys.readouterr().err == ""
    for name in ("config.json", "verdicts.json"):
        text = (path / name).read_text()
        (path / name).write_text(text.replace('"stuck"', '"very stuck"'))
    published(tmp_path)
    assert "claim 'image': the study's criterion is now 'stuck'" in (
        capsys.readouterr().err)


def test_the_command_line(tmp_path, capsys):
    made(tmp_path)
    options = ["--results", str(tmp_path / "results"), "--output", str(tmp_path / "p")]
    assert _cli.main(["publish", *options]) == 2
    assert "there are: toy." in capsys.readouterr().err
    assert _cli.main(["publish", "none", *options]) == 2
    assert "none/config.json is missing" in capsys.readouterr().err
    assert _cli.main(["publish", "toy", *options]) == 0
    assert "p/toy: 6 files" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        _cli.main(["publish", "toy", "--figure-kb", "0"])
    assert "must be at least 1" in capsys.readouterr().err
    options[-1] = str(tmp_path / "results/toy/summary.md")
    assert _cli.main(["publish", "toy", *options]) == 2
    assert "cannot write to" in capsys.readouterr().err


# Small enough.


def test_metrics_keep_their_shape_and_ends(tmp_path):
    made(tmp_path, losses=[1 / (1 + n) for n in range(5000)])
    line = json.loads((published(tmp_path) / "metrics.jsonl").read_text())
    assert line["seed"] == 1 and line["thinned"] == {"losses": 5000}
    assert len(line["losses"]) == 300
    assert line["losses"][0] == 1.0 and line["losses"][-1] == 0.0002
    assert line["losses"][1] == float(f"{1 / 18:.6g}")  # the 17th of steps of 16.7


@pytest.mark.parametrize(
    ("record", "numbers", "expected"),
    [
        ({"a": [1, 2, 3], "b": 4}, 3, {"a": [1, 2, 3], "b": 4}),
        ({"a": [1, 2, 3], "b": 4}, 2, {"a": [1, 3], "b": 4, "thinned": {"a": 3}}),
        ({"a": [1, 2, 3]}, 1, {"a": [], "thinned": {"a": 3}}),
        ({"a": [[1, 2, 3], [4, 5, 6]], "b": [7]}, 5,
         {"a": [[1, 3], [4, 6]], "b": [7], "thinned": {"a": 3}}),
        ({"a": [[1, 2, 3]] * 4}, 8, {"a": [[1, 3]] * 4, "thinned": {"a": 3}}),
        ({"a": {"x": list(range(9)), "y": "no"}}, 3,
         {"a": {"x": [0, 4, 8], "y": "no"}, "thinned": {"a": 9}}),
        ({"a": [], "b": 1.23456789, "c": None, "d": 12345678}, 0,
         {"a": [], "b": 1.23457, "c": None, "d": 12345678}),
        ({"a": [1]}, 5, {"a": [1]}),
    ],
)
def test_lists_are_thinned_evenly(record, numbers, expected):
    assert _thin.thinned(record, numbers) == expected


def test_the_longest_lists_are_thinned_first():
    small = _thin.thinned({"long": list(range(1000)), "short": list(range(20))}, 120)
    assert len(small["long"]) == 100 and small["short"] == list(range(20))
    assert small["thinned"] == {"long": 1000}


def test_many_lines_have_fewer_numbers_each():
    line = json.dumps({"a": list(range(100))}) + "\n"
    path = pathlib.Path("metrics.jsonl")
    small = _thin.thinned_metrics(line.encode() * 100, path, 300, 15_000)
    assert len(small) <= 15_000
    assert 10 < len(json.loads(small.splitlines()[0])["a"]) < 50
    bare = _thin.thinned_metrics(line.encode() * 100, path, 300, 3_600)
    assert json.loads(bare.splitlines()[0]) == {"a": [], "thinned": {"a": 100}}
    with pytest.raises(StudyError, match=r"metrics\.jsonl has .* without any lists"):
        _thin.thinned_metrics(line.encode() * 100, path, 300, 100)


@pytest.mark.parametrize("line", [b"{", b"3", b'{"a": 1}{"b": 2}', b"\xff"])
def test_damaged_metrics_are_named(line):
    with pytest.raises(StudyError, match=r"metrics\.jsonl, line 2, is damaged"):
        _thin.thinned_metrics(b"{}\n" + line, pathlib.Path("metrics.jsonl"), 3, 99)


def test_large_figures_lose_colours_or_are_refused(tmp_path):
    path = tmp_path / "figure.png"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (200, 200, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    assert _thin.smaller_figure(path, len(whole)) == whole
    small = _thin.smaller_figure(path, 60_000)
    assert len(small) < 60_000 and small[:4] == b"\x89PNG"
    with pytest.raises(StudyError, match="with 256 colours"):
        _thin.smaller_figure(path, 10_000)
    path.write_bytes(b"none")
    with pytest.raises(StudyError, match="is no image"):
        _thin.smaller_figure(path, 1)
