"""What studies leave behind: folders, criteria, verdicts."""

import dataclasses
import json
from typing import ClassVar

import pytest

from experiments import _claims, _results
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
