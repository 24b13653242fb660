"""What studies leave behind: folders, criteria, verdicts."""

import dataclasses
import json
import pathlib
import subprocess
import sys
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _claims, _cli, _provenance, _registry, _results
from experiments._claims import Claim
from experiments._registry import StudyError

CLAIM = Claim("rate", "K", "Theorem II", "It falls.", "slope at most {slope:g}")


@dataclasses.dataclass(frozen=True)
class Config:
    CLAIMS: ClassVar = (CLAIM, CLAIM._replace(key="full", not_run="no accelerator"))
    slope: float = -0.5
    results: str = "results"
    data_dir: str | None = dataclasses.field(default=None, metadata={"place": True})


def opened(tmp_path, *, resume=False, **changes):
    config = Config(results=str(tmp_path), **changes)
    return _results.Results(tmp_path, "study", config, resume=resume)


def test_criteria_are_on_disk_before_anything_ran(tmp_path):
    opened(tmp_path, slope=-0.25)
    saved = json.loads((tmp_path / "study/config.json").read_text())
    assert saved["claims"][0]["criterion"] == "slope at most -0.25"
    assert saved["command"] == "python -m experiments study --slope=-0.25"
    assert saved["commit"]


def test_every_claim_needs_a_verdict(tmp_path, capsys):
    results = opened(tmp_path)
    with pytest.raises(ValueError, match="no verdict on rate"):
        results.finish("text")
    results.verdict("rate", True, "-0.51 ± 0.02")
    results.finish("text")
    assert "**reproduced** · Karimireddy et al. 2019, Theorem II" in (
        capsys.readouterr().out)
    verdicts = json.loads((tmp_path / "study/verdicts.json").read_text())
    assert verdicts["rate"]["number"] == "-0.51 ± 0.02"
    assert verdicts["full"]["verdict"] == "not run"
    assert verdicts["full"]["why"] == "no accelerator"


def test_verdicts():
    assert _claims.judge(CLAIM, True, "1").verdict == "reproduced"
    small = CLAIM._replace(reduced="one seed")
    assert _claims.judge(small, True, "1") == (
        "reproduced in kind", "1", "reduced: one seed")
    assert _claims.judge(small, False, "1", "noise").verdict == "not reproduced"
    with pytest.raises(ValueError, match="say why"):
        _claims.judge(CLAIM, False, "1")


def test_what_need_not_run_is_judged_where_it_does(tmp_path):
    results = opened(tmp_path)
    results.verdict("rate", True, "1")
    results.verdict("full", True, "2")
    results.finish("text")
    verdicts = json.loads((tmp_path / "study/verdicts.json").read_text())
    assert verdicts["full"]["verdict"] == "reproduced"


def test_results_of_another_configuration_stay_as_they_are(tmp_path):
    opened(tmp_path).metric(a=1)
    before = {p: p.read_bytes() for p in (tmp_path / "study").iterdir()}
    with pytest.raises(StudyError, match=r"slope is -1\.0 and was -0\.5"):
        opened(tmp_path, slope=-1.0)
    assert {p: p.read_bytes() for p in (tmp_path / "study").iterdir()} == before
    opened(tmp_path, data_dir="elsewhere")  # where files are does not matter


def test_unreadable_results_stay_as_they_are(tmp_path):
    opened(tmp_path)
    (tmp_path / "study/config.json").write_text("{")
    with pytest.raises(StudyError, match="cannot be read"):
        opened(tmp_path)


def test_resuming_keeps_whole_lines(tmp_path):
    results = opened(tmp_path)
    results.metric(run=1, value=float("nan"))
    results.metric(run=2)
    with results.metrics_path.open("a") as file:
        file.write('{"run": 3, "val')
    again = opened(tmp_path, resume=True)
    assert again.records == [{"run": 1, "value": None}, {"run": 2}]
    again.metric(run=3)
    assert opened(tmp_path, resume=True).records[2] == {"run": 3}
    assert opened(tmp_path).records == []
    assert opened(tmp_path).metrics_path.read_text() == ""


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"config": 3}'])
def test_a_config_that_is_none_is_refused(content, tmp_path):
    opened(tmp_path)
    (tmp_path / "study/config.json").write_text(content)
    with pytest.raises(StudyError, match=r"config\.json cannot be read"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["summary.md", "figure_x.png", "metrics.jsonl"])
def test_files_of_nobody_knows_which_study_stay(name, tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / name).write_text("mine")
    with pytest.raises(StudyError, match=f"holds {name} but no config"):
        opened(tmp_path)
    assert (tmp_path / "study" / name).read_text() == "mine"
    (tmp_path / "study" / name).rename(tmp_path / "study" / "notes.md")
    opened(tmp_path)


def test_a_damaged_line_is_not_resumed_over(tmp_path):
    results = opened(tmp_path)
    results.metrics_path.write_text('{"run": 1}\n{"run": \n{"run": 3}\n')
    with pytest.raises(StudyError, match=r"metrics\.jsonl, line 2, is damaged"):
        opened(tmp_path, resume=True)
    assert '{"run": 3}' in results.metrics_path.read_text()


def test_a_folder_that_cannot_be_written_says_which(tmp_path):
    opened(tmp_path).metrics_path.unlink()
    (tmp_path / "study/metrics.jsonl").mkdir()  # root may write anywhere else
    with pytest.raises(StudyError, match=r"cannot write to .*study"):
        opened(tmp_path)


def test_arrays_of_either_kind_are_numbers(tmp_path):
    results = opened(tmp_path)
    results.metric(a=jnp.arange(2), b=np.float32(0.5), c=[jnp.float32(jnp.inf)])
    assert json.loads(results.metrics_path.read_text()) == {
        "a": [0, 1], "b": 0.5, "c": [None]}


def configured(*claims):
    @dataclasses.dataclass(frozen=True)
    class Claiming:
        CLAIMS: ClassVar = claims
        slope: float = 1.0

    return Claiming()


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ((CLAIM, CLAIM), "two claims have the key 'rate'"),
        ((CLAIM._replace(paper="X"),), "of paper 'X'; there are: K, B, S"),
        ((CLAIM._replace(criterion="at most {slop}"),), "'rate': KeyError.*slope"),
        ((CLAIM._replace(criterion="in {0, 1}"),), "criterion of claim 'rate'"),
        ((CLAIM._replace(criterion="a set {"),), "criterion of claim 'rate'"),
    ],
)
def test_claims_that_cannot_be_judged_are_refused(claims, message):
    with pytest.raises(ValueError, match=message):
        _claims.claims_of(configured(*claims))


def test_a_verdict_is_of_a_claim(tmp_path):
    with pytest.raises(ValueError, match="no claim 'rat'; there are: rate, full"):
        opened(tmp_path).verdict("rat", True, "1")


# By which command and code.


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of many kinds."""

    words: tuple[str, ...] = dataclasses.field(
        default=(), metadata={"positional": True, "help": "50% of them"})
    rate: float = dataclasses.field(default=0.1, metadata={"help": "in %"})
    only: tuple[str, ...] = ()
    limit: int | None = 3
    results: str = "results"

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"rate must not be negative; got {self.rate:g}.")


def test_the_command_gives_the_configuration_again():
    config = Options(
        words=("a b", "c"), rate=0.123456789012, only=("vote packed", "$x"),
        limit=None, results="/secret")
    command = _provenance.command("study", config)
    assert "secret" not in command
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    words = json.loads(subprocess.run(
        ["sh", "-c", command.replace("python -m experiments study",
                                     f"{sys.executable} -c '{code}'")],
        capture_output=True, text=True, check=True).stdout)
    again = _cli.parse(Options, words, "study")
    assert again == dataclasses.replace(config, results="results")


def test_help_shows_percent_signs_and_defaults(capsys):
    with pytest.raises(SystemExit):
        _cli.parse(Options, ["--help"], "study")
    out = capsys.readouterr().out
    assert "50% of them" in out and "in % [0.1]" in out and "[3]" in out
    assert "[]" not in out


def test_a_bad_value_is_refused_in_one_line(capsys):
    with pytest.raises(SystemExit) as refused:
        _cli.parse(Options, ["--rate=-1"], "study")
    assert refused.value.code == 2
    assert capsys.readouterr().err == (
        "error: rate must not be negative; got -1. See study --help.\n")


def test_only_files_that_are_imported_count_for_the_commit(tmp_path):
    """A repository of its own, in which two studies and a test are changed."""
    root = tmp_path / "repository"
    (root / "experiments").mkdir(parents=True)
    for name in ("__init__", "one", "two", "_cli", "_provenance", "_registry"):
        source = pathlib.Path(_provenance.__file__).with_name(f"{name}.py")
        text = source.read_text() if name.startswith("_") else ""
        (root / f"experiments/{name}.py").write_text(text)

    def run(*words):
        return subprocess.run(
            words, cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    def commit(*imported):
        names = ", ".join(["_provenance", "_registry", *imported])
        return run(sys.executable, "-c", f"from experiments import {names}; "
                   "print(_provenance.commit())")

    assert commit() == "unknown"
    run("git", "init", "-q")
    run("git", "add", ".")
    run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first")
    head = run("git", "rev-parse", "--short=12", "HEAD")
    for name in ("one", "_registry"):
        with (root / f"experiments/{name}.py").open("a") as file:
            file.write("a = 1")
    (root / "experiments/three.py").write_text("")
    assert commit("two") == head
    assert commit("one") == commit("three") == head + "+"


def test_ctrl_c_is_no_traceback(monkeypatch, capsys):
    class Interrupted:
        @staticmethod
        def run(config):
            raise KeyboardInterrupt

    monkeypatch.setattr(_cli, "load", lambda name: (Interrupted, Options))
    assert _cli.main(["quickstart"]) == 130
    assert "quickstart was interrupted" in capsys.readouterr().err


def test_a_near_miss_is_named():
    with pytest.raises(StudyError, match="Did you mean quickstart"):
        _registry.load("quikstart")
