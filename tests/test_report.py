"""The page of all results: whole, legible, reproducible, and without paths."""

import html.parser
import pathlib
import re
from urllib.parse import unquote

import pytest
from results_tools import NASTY, Config, make, studies  # noqa: F401

from experiments import _cli, _html, _page, report
from experiments._registry import StudyError

pytestmark = pytest.mark.usefixtures("studies")


class Parsed(html.parser.HTMLParser):
    """Anchors, links, images, and the text of each element kind."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.images, self.rows = [], [], [], []
        self.open, self.text = [], {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [unquote(attrs["href"])] if tag == "a" else []
        self.images += [attrs["src"]] if tag == "img" else []
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "img":
            assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in self.open:
            self.text[tag] = self.text.get(tag, "") + data


def build(*roots, **options):
    config = report.Config(results=tuple(map(str, roots)), **options)
    entries = report.run(config)
    root = pathlib.Path(config.output)
    return entries, (root / "report.md").read_text(), (root / "report.html").read_text()


def test_every_claim_stands_with_its_verdict_in_the_papers_order(tmp_path):
    make(tmp_path)
    entries, markdown, page = build(tmp_path)
    assert len(entries) == 7
    headings = re.findall("^### (.*)$", markdown, flags=re.MULTILINE)
    assert headings == [
        "Karimireddy, Theorem II", "Karimireddy, Figure 3", "Karimireddy, Figure 5",
        "Bernstein, Table 1", "Bernstein, Figure 3", "Bernstein, Figure A.1",
        "Safaryan and Richtárik, Figure 8"]
    assert "| all | 7 | 3 | 1 | 1 | 2 |" in markdown
    assert "| [Karimireddy](#karimireddy) | 3 | 1 | 1 | 1 | 0 |" in markdown
    assert ("| Theorem II | ✓ [toy: rate](#toy-rate) · ✗ [toy: tight](#toy-tight) |\n"
            "| Figure 3 | ≈ [toy: image](#toy-image) |\n"
            "| Figure 5 | ≈ [toy: image](#toy-image) |\n") in markdown
    assert "#### toy: tight\n\n✗ **not reproduced**\n\n" in markdown
    assert "- **Criterion:** within -0.5\n- **Here:** 3 ± 1\n" in markdown
    assert ("#### toy: image\n\n≈ **reproduced in kind at reduced scale** · "
            "Figures 3, 5\n\n"
            "- **The paper:** It is stuck.\n- **Criterion:** stuck\n"
            "- **Here:** 2.0 ± 0.0\n- **Reduced:** one seed\n"
            "- **Run:** `python -m experiments toy` at commit 0123456789ab "
            "([summary](toy/summary.md), [configuration](toy/config.json), "
            "[metrics](toy/metrics.jsonl))\n\n"
            "![Karimireddy, Figure 3: toy: image](toy/figure_more.png)\n\n"
            "### Karimireddy, Figure 5\n\nSee ≈ [toy: image](#toy-image)\n"
            ) in markdown
    assert "- **Why:** no GPU\n" in markdown
    assert ("- **Why:** no results found\n- **Run:** `python -m experiments other`\n"
            in markdown)
    assert str(tmp_path) not in markdown + page


def test_links_and_images_lead_somewhere_and_tables_are_whole(tmp_path):
    make(tmp_path)
    make(tmp_path, "toy_steep", slope=-1.0)
    _, _, page = build(tmp_path)
    parsed = Parsed(page)
    assert not parsed.open and len(set(parsed.ids)) == len(parsed.ids)
    for link in parsed.links:
        if link.startswith("#"):
            assert link[1:] in parsed.ids
        else:
            assert (tmp_path / link).is_file()
    # Once a paper, though both claims of Theorem II have it.
    assert sorted(parsed.images) == [
        "toy/figure.png", "toy/figure.png", "toy/figure_more.png",
        "toy_steep/figure.png", "toy_steep/figure.png", "toy_steep/figure_more.png"]
    assert all((tmp_path / image).is_file() for image in parsed.images)
    assert set(parsed.rows) == {2, 6}


@pytest.mark.parametrize(
    ("where", "named"),
    [("Section 4.2 and Lemma 8, Figure 1", ("Lemma 8", "Figure 1")),
     ("Sections 2 and 4", ("Section 2",)), ("the  preface", ("the preface",))],
)
def test_a_claim_is_of_numbered_things_before_sections(where, named):
    claim = Config.CLAIMS[0]._replace(where=where)
    assert _page.Entry("toy", claim, None, "").items == named


def test_a_figure_is_shown_once_in_a_paper_where_its_figure_is(tmp_path):
    path = make(tmp_path)
    for name in ("config.json", "verdicts.json"):
        text = (path / name).read_text()
        (path / name).write_text(text.replace("figure_more.png", "figure.png"))
    _, markdown, _ = build(tmp_path)
    assert markdown.count("](toy/figure.png)") == 2  # in each of two papers
    assert "Figure: see [Karimireddy, Figure 3](#karimireddy-figure-3)." in markdown


def test_texts_are_shown_as_they_were_written(tmp_path):
    make(tmp_path)
    _, markdown, page = build(tmp_path)
    text = Parsed(page).text["body"]
    assert text.count(NASTY.replace("`", "")) == 2
    assert "-0.51 ± 0.02 | a" in text
    assert "$" not in markdown  # GitHub would set mathematics
    assert "<b>" not in page


@pytest.mark.parametrize("text", [
    "`a|b` and |c|", "a\\", "_a_ b_c_ x_i", "**", "<script>", "a&lt;b", "[x]: y",
    "`open", "~~gone~~", "a\nb\t c", "![x](y)", "1 \\| 2", "http://a_b.c/_d_", "``",
])
def test_any_text_survives_lists_and_tables(text):
    plain = " ".join(re.sub(r"`([^`]+)`", r"\1", text).split())
    escaped = _page.escape(text)
    page = _html.render(f"- {escaped}\n\n" + _page._table(["h"], [[escaped]]), "t")
    shown = Parsed(page).text
    assert shown["li"].strip() == plain
    assert shown["td"].strip() == plain


def test_the_same_results_give_the_same_bytes(tmp_path):
    make(tmp_path)
    first = build(tmp_path)[1:]
    assert build(tmp_path)[1:] == first  # the page itself is no result


def test_results_that_have_not_ended(tmp_path):
    make(tmp_path, finish=False)
    entries, markdown, _ = build(tmp_path)
    verdicts = {entry.claim.key: entry.judged for entry in entries}
    assert verdicts["rate"].why == "the run has not ended: it left no verdicts"
    assert verdicts["large"].why == "no GPU"
    assert "| all | 7 | 0 | 0 | 0 | 7 |" in markdown


def test_without_results_nothing_was_run(tmp_path):
    (tmp_path / "loose").mkdir()
    entries, markdown, page = build(tmp_path)
    assert {entry.judged.verdict for entry in entries} == {"not run"}
    assert "## Runs" not in markdown and "<img" not in page


@pytest.mark.parametrize("name", ["figure.png", "summary.md", "metrics.jsonl"])
def test_a_missing_file_is_not_linked(name, tmp_path):
    (make(tmp_path) / name).unlink()
    _, _, page = build(tmp_path)
    assert f"toy/{name}" not in page and "toy/config.json" in page


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("verdicts.json", lambda t: t[:50], "damaged"),
        ("verdicts.json", lambda t: "[]", "no JSON object"),
        ("verdicts.json", lambda t: t.replace("not reproduced", "proven"), "'proven'"),
        ("verdicts.json", lambda t: t.replace('"rate": {', '"rat": {', 1),
         "claims are not those of config.json"),
        ("verdicts.json", lambda t: t.replace("stuck", "struck"), "claim 'image'"),
        ("verdicts.json", lambda t: t.replace('"says"', '"sayz"'), "lacks 'says'"),
        ("config.json", lambda t: "", "damaged"),
        ("config.json", lambda t: t.replace('"commit"', '"comit"'), "has no 'commit'"),
        ("config.json", lambda t: t.replace('"K"', '"X"'), "no known paper"),
    ],
)
def test_damaged_results_are_named(file, change, message, tmp_path, capsys):
    path = make(tmp_path) / file
    path.write_text(change(path.read_text()))
    with pytest.raises(StudyError, match=re.escape(str(path))) as refused:
        build(tmp_path)
    assert message in str(refused.value)
    assert not (tmp_path / "report.md").exists()


def test_the_last_directory_counts(tmp_path):
    make(tmp_path / "old", slope=-0.25)
    make(tmp_path / "new")
    make(tmp_path / "new", "toy_more", slope=-2.0)
    entries, markdown, page = build(tmp_path / "old", tmp_path / "new")
    assert "slope -0.25" not in markdown and "slope -2" in markdown
    assert len(entries) == 13
    assert (tmp_path / "new/report.md").exists()
    _, markdown, page = build(tmp_path / "new", output=str(tmp_path / "page"))
    assert "../new/toy/figure.png" in Parsed(page).images
    assert str(tmp_path) not in markdown + page


def test_images_can_be_part_of_the_page(tmp_path):
    make(tmp_path)
    _, _, page = build(tmp_path, embed=True)
    images = Parsed(page).images
    assert images and all(x.startswith("data:image/png;base64,") for x in images)


def test_the_command_line(tmp_path, capsys):
    assert _cli.main(["report", "--results", str(tmp_path / "none")]) == 2
    assert "there is no directory" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    options = ["--results", str(tmp_path), "--output", str(tmp_path / "file")]
    assert _cli.main(["report", *options]) == 2
    assert "cannot write to" in capsys.readouterr().err
    assert _cli.main(["report", "--results", str(tmp_path)]) == 0
    assert "7 claims: 0 reproduced" in capsys.readouterr().out


def test_headings_that_occur_twice_have_two_anchors():
    page = _html.render("# A, b!\n\n## A b\n\n# `Á_x` ²", "t")
    assert Parsed(page).ids == ["a-b", "a-b-1", "á_x-"]
