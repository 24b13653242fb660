"""What the three papers contain, in their order, and how a claim says where."""

from __future__ import annotations

import re

# What a page calls each paper, and where it is to be found.
SHORT = {"K": "Karimireddy", "B": "Bernstein", "S": "Safaryan and Richtárik"}
CITATIONS = {
    "K": "Karimireddy, Rebjock, Stich, Jaggi: Error Feedback Fixes SignSGD and other "
         "Gradient Compression Schemes, ICML 2019 (arXiv:1901.09847v1).",
    "B": "Bernstein, Wang, Azizzadenesheli, Anandkumar: signSGD: Compressed "
         "Optimisation for Non-Convex Problems, ICML 2018 (arXiv:1802.04434).",
    "S": "Safaryan, Richtárik: On Stochastic Sign Descent Methods, 2019 "
         "(arXiv:1905.12938, an early version).",
}

# Numbered things in the order in which a reader meets them.
ORDER = {
    "K": (
        "Section 1", "Algorithm 1", "Section 2", "Section 3", "Figure 1",
        "Counterexample 1", "Remark 1", "Counterexample 2", "Remark 2",
        "Counterexample 3", "Theorem I", "Section 4", "Algorithm 2", "Assumption A",
        "Lemma 3", "Assumption B", "Assumption C", "Theorem II", "Remark 4",
        "Remark 5", "Theorem III", "Remark 6", "Remark 7", "Figure 2", "Lemma 8",
        "Section 5", "Section 5.1", "Lemma 9", "Theorem IV", "Remark 10",
        "Section 5.2", "Figure 3", "Section 6", "Section 6.1", "Figure 4", "Table 1",
        "Section 6.2", "Section 7", "Appendix A", "Appendix A.1", "Figure 5",
        "Appendix A.2", "Appendix A.3", "Table 2", "Appendix A.4", "Figure 6",
        "Table 3", "Appendix A.5", "Figure 7", "Table 4", "Appendix A.6",
        "Appendix B", *(f"Appendix B.{n}" for n in range(1, 9)),
    ),
    "B": (
        "Section 1", "Algorithm 1", "Algorithm 2", "Algorithm 3", "Section 2",
        "Table 1", "Section 3", "Assumption 1", "Assumption 2", "Assumption 3",
        "Theorem 1", "Figure 1", "Section 4", "Figure 2", "Theorem 2", "Remark 1",
        "Remark 2", "Remark 3", "Section 5", "Theorem 3", "Figure 3", "Section 6",
        "Section 7", "Appendix A", "Figure A.1", "Figure A.2", "Figure A.3",
        "Figure A.4", "Appendix B", "Appendix C", "Theorem C.1", "Appendix D",
        "Lemma D.1", "Appendix E", "Lemma E.1", "Lemma E.2", "Appendix F", "Lemma F.1",
        "Lemma F.2", "Lemma F.3",
    ),
    "S": (
        "Section 1", "Section 1.1", "Table 1", "Section 1.2", "Section 2",
        "Section 2.1", "Assumption 1", "Remark 1", "Section 2.2", "Section 2.3",
        "Lemma 1", "Lemma 2", "Lemma 3", "Lemma 4", "Remark 2", "Section 3",
        "Definition 1", "Figure 1", "Section 4", "Section 4.1", "Algorithm 1",
        "Theorem 1", "Theorem 2", "Figure 2", "Section 4.2", "Algorithm 2", "Figure 3",
        "Definition 2", "Theorem 3", "Section 5", "Figure 4", "Section 5.1",
        "Figure 5", "Section 5.2", "Appendix A", "Figure 6", "Figure 7", "Figure 8",
        "Appendix B", "Appendix B.1", "Theorem 4", "Appendix B.2", "Appendix B.3",
        "Lemma 5", "Lemma 6", "Lemma 7", "Appendix B.4", "Appendix B.5",
        "Appendix B.6", "Appendix B.7", "Lemma 8", "Appendix B.8", "Theorem 5",
        "Appendix C", "Theorem 6", "Appendix D", "Appendix E", "Definition 3",
    ),
}

# How claims may write the kinds, one beginning for each spelling.
KINDS = {
    "fig": "Figure", "tab": "Table", "th": "Theorem", "lem": "Lemma", "rem": "Remark",
    "alg": "Algorithm", "counterex": "Counterexample", "ass": "Assumption",
    "def": "Definition", "sec": "Section", "§": "Section", "app": "Appendix",
}
KIND = (
    r"\b(?:fig(?:ure)?s?|tables?|theorems?|thms?|lemmas?|lemmata|remarks?|rems?"
    r"|algorithms?|algs?|counter-?examples?|assumptions?|definitions?|defs?"
    r"|sections?|secs?|appendi(?:x|ces)|apps?)\b\.?|§+"
)
LABEL = r"(?:[A-H]\.\d+|\d+(?:\.\d+)*|[IVX]+\b|[A-H]\b)"
NAMED = re.compile(
    rf"((?i:{KIND}))\s*({LABEL}(?:\s*(?:,|and|&|to|-|–)\s*{LABEL})*)"
)
ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")


def items(where: str) -> tuple[str, ...]:
    """Returns what a text names, one by one and in one spelling.

    Where it names nothing by its kind, "B.1" is an appendix.

    >>> items("Figs. A.1-A.3 and Table 2, left")
    ('Figure A.1', 'Figure A.2', 'Figure A.3', 'Table 2')
    """
    found = []
    for match in NAMED.finditer(where):
        word = match[1].lower().replace("-", "")
        kind = next(KINDS[start] for start in KINDS if word.startswith(start))
        for label in _labels(match[2]):
            letter = kind == "Section" and label[0].isalpha()
            found.append(f"{'Appendix' if letter else kind} {label}")
    if not found:
        found = [f"Appendix {label}" for label in re.findall(r"\b[A-H]\.\d+", where)]
    return tuple(dict.fromkeys(found))


def position(paper: str, where: str) -> tuple[int, str]:
    """Orders places of a paper; those that name nothing of `ORDER` come last."""
    order = ORDER[paper]
    known = [order.index(item) for item in items(where) if item in order]
    return (min(known) if known else len(order)), where


def _labels(text: str) -> list[str]:
    """Reads "1, 3 and 5-7"."""
    labels: list[str] = []
    parts = re.findall(rf"{LABEL}|to|-|–", text)
    for before, part in zip(["", *parts], parts, strict=False):
        if part in ("to", "-", "–"):
            continue
        if before in ("to", "-", "–"):
            labels += _between(labels[-1], part)
        labels.append(part)
    return labels


def _between(first: str, last: str) -> list[str]:
    """Returns the labels strictly between two."""
    if first in ROMAN and last in ROMAN:
        return list(ROMAN[ROMAN.index(first) + 1 : ROMAN.index(last)])
    head, _, start = first.rpartition(".")
    _, _, end = last.rpartition(".")
    if not start.isdigit() or not end.isdigit():
        return []
    prefix = head + "." * bool(head)
    return [f"{prefix}{number}" for number in range(int(start) + 1, int(end))]
