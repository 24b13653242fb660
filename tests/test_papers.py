"""Every figure, table and theorem that is to come out is some study's claim."""

import collections
import pathlib

import pytest

from experiments import _folders, _page, _papers, publish, report
from experiments._claims import PAPERS
from experiments._page import slug

REQUIRED = {
    "K": (
        "Algorithm 1", "Algorithm 2", "Counterexamples 1-3", "Figures 1-7",
        "Tables 1-4", "Theorems I-IV", "Remarks 4-7", "Remark 10", "Lemmas 3, 8, 9",
    ),
    "B": (
        "Theorems 1-3", "Figures 1-3", "Figures A.1-A.4", "Table 1", "Remark 3",
        "Lemmas D.1, E.1, F.2", "Theorem C.1",
    ),
    "S": (
        "Figures 1-8", "Theorems 1-3", "Theorem 6", "Lemmas 1, 7, 8", "Appendix E",
        "Section 2.2",
    ),
}


@pytest.fixture(scope="module")
def claims():
    return list(report.registered())


def test_everything_is_claimed(claims):
    claimed = collections.defaultdict(set)
    for _, claim in claims:
        claimed[claim.paper].update(_papers.items(claim.where))
    missing = [
        f"{PAPERS[paper]}, {item}"
        for paper, texts in REQUIRED.items()
        for text in texts for item in _papers.items(text)
        if item not in claimed[paper]
    ]
    assert not missing, "no study claims:\n" + "\n".join(missing)


def test_claims_name_what_is_in_the_papers(claims):
    """So that the page can put them in order."""
    for study, claim in claims:
        named = set(_papers.items(claim.where)) & set(_papers.ORDER[claim.paper])
        assert named, f"{study}, claim {claim.key!r}: where is {claim.where!r}?"


def test_claims_are_whole(claims):
    headings = collections.defaultdict(set)
    for study, claim in claims:
        name = f"{study}, claim {claim.key!r}"
        assert claim.says.strip() and claim.criterion.strip(), name
        assert not claim.figure or claim.figure.endswith(".png"), name
        heading = f"{claim.paper} {claim.where}"
        headings[slug(heading)].add(heading)
    double = [texts for texts in headings.values() if len(texts) > 1]
    assert not double, f"spelt in two ways: {double}"


def test_what_is_required_is_in_the_papers():
    for paper, texts in REQUIRED.items():
        for text in texts:
            assert set(_papers.items(text)) <= set(_papers.ORDER[paper]), text
    for paper, order in _papers.ORDER.items():
        assert len(set(order)) == len(order)
        for item in order:
            assert _papers.items(item) == (item,), (paper, item)


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ("Figure 7, left", ["Figure 7"]),
        ("Figs. A.1–A.3", ["Figure A.1", "Figure A.2", "Figure A.3"]),
        ("Theorems II-IV", ["Theorem II", "Theorem III", "Theorem IV"]),
        ("Tables 3 and 4", ["Table 3", "Table 4"]),
        ("Theorem II, Remarks 4–6",
         ["Theorem II", "Remark 4", "Remark 5", "Remark 6"]),
        ("Section 4, Remark 3", ["Section 4", "Remark 3"]),
        ("§2.2", ["Section 2.2"]),
        ("App. E", ["Appendix E"]),
        ("Lemmas 3, 8, 9", ["Lemma 3", "Lemma 8", "Lemma 9"]),
        ("Lemma 8 and Figure 2", ["Lemma 8", "Figure 2"]),
        ("counter-example 2", ["Counterexample 2"]),
        ("Figure 1a", ["Figure 1"]),
        ("Theorem 2(b), Thm. C.1", ["Theorem 2", "Theorem C.1"]),
        ("experiments on MNIST", []),
        ("Section 4.2 and B.8", ["Section 4.2", "Appendix B.8"]),
        ("B.1", ["Appendix B.1"]),
        ("Table 1 on tables", ["Table 1"]),
    ],
)
def test_places_are_read(where, named):
    assert _papers.items(where) == tuple(named)


def test_places_come_in_the_papers_order():
    places = ["a page", "Figure 3", "Theorem II", "Lemma 8 and Figure 2", "Figure 5"]
    ordered = sorted(places, key=lambda where: _papers.position("K", where))
    assert ordered == [
        "Theorem II", "Lemma 8 and Figure 2", "Figure 3", "Figure 5", "a page"]


PUBLISHED = pathlib.Path(__file__).parent.parent / report.PUBLISHED


@pytest.mark.skipif(not (PUBLISHED / "report.md").exists(), reason="nothing published")
def test_the_published_page_is_that_of_the_published_results():
    runs = _folders.folders(PUBLISHED)
    page = _page.page(report.judged(runs), runs, PUBLISHED)
    assert (PUBLISHED / "report.md").read_text() == page, "run `make report`"
    assert _page.TITLE in (PUBLISHED / "report.html").read_text()


@pytest.mark.skipif(not PUBLISHED.exists(), reason="nothing published")
def test_what_is_published_is_small_clean_and_of_a_commit():
    limits = publish.Config()
    for folder in _folders.folders(PUBLISHED):
        files = {p.name: p.read_bytes() for p in folder.path.iterdir()}
        publish.refuse_paths(folder.path, files, [])
        assert "results" not in folder.saved["config"], folder.path
        assert "+" not in folder.saved["commit"], folder.path
        assert folder.judged is not None or not folder.claims, folder.path
        for name, content in files.items():
            limit = limits.figure_kb if name.endswith(".png") else limits.metrics_kb
            assert len(content) <= 1000 * limit, folder.path / name
