"""Draws the README's picture of what happens to a gradient.

Made anew by ``python -m experiments.pipeline``.
"""

from __future__ import annotations

import pathlib

FILE = pathlib.Path(__file__).with_suffix(".svg")

INK, PALE, PAPER = "#24292f", "#6b7280", "#ffffff"
OPTAX, SENT, KEPT, CROSSES = "#eef0f3", "#dbe9fb", "#fde8d0", "#dcf2e0"
EDGES = {OPTAX: "#9aa2ad", SENT: "#3b76c4", KEPT: "#c96f12", CROSSES: "#2f8f46"}
MIDDLE = 112  # The height of the line along which a gradient travels.


def text(x: float, y: float, words: str, size: int = 14, **more: str) -> str:
    """Returns words centred at a point."""
    style = {"text-anchor": "middle", "fill": INK} | more
    attributes = " ".join(f'{name}="{value}"' for name, value in style.items())
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" {attributes}>{words}</text>'


def box(
    x: float, y: float, width: float, height: float, fill: str, title: str,
    *lines: str,
) -> str:
    """Returns a rectangle centred at a height, with a title and smaller lines."""
    middle = x + width / 2
    first = y + 5 - 8 * len(lines)
    return "\n".join([
        f'<rect x="{x:g}" y="{y - height / 2:g}" width="{width:g}" height="{height:g}" '
        f'rx="7" fill="{fill}" stroke="{EDGES[fill]}" stroke-width="1.5"/>',
        text(middle, first, title, 15, **{"font-weight": "bold"}),
        *(text(middle, first + 17 * (i + 1), line, 12, fill=PALE)
          for i, line in enumerate(lines)),
    ])


def arrow(*points: tuple[float, float], edge: str = INK) -> str:
    """Returns a line through points with a head at the last."""
    path = "M" + " L".join(f"{x:g},{y:g}" for x, y in points)
    return (f'<path d="{path}" fill="none" stroke="{edge}" stroke-width="1.6" '
            f'marker-end="url(#head)"/>')


def workers(x: float, y: float, width: float, height: float, label: str) -> str:
    """Returns three sheets behind each other, for what every worker does."""
    sheets = [
        f'<rect x="{x + d:g}" y="{y - d:g}" width="{width:g}" height="{height:g}" '
        f'rx="10" fill="{PAPER}" stroke="#c3c8d0" stroke-width="1.2"/>'
        for d in (14, 7, 0)
    ]
    name = text(x + 12, y + 22, label, 13, fill=PALE, **{"text-anchor": "start"})
    return "\n".join([*sheets, name])


def drawing() -> str:
    """Returns the picture as SVG."""
    y, low = MIDDLE, MIDDLE + 112
    parts = [
        workers(12, 24, 554, 258, "worker i of M"),
        workers(716, 24, 242, 258, "every worker"),
        box(24, y, 88, 56, OPTAX, "gradient", "local"),
        arrow((112, y), (132, y)),
        box(134, y, 168, 74, OPTAX, "optax transforms", "clip, decay, momentum,",
            "learning rate, …"),
        arrow((302, y), (334, y)),
        f'<circle cx="352" cy="{y}" r="16" fill="{KEPT}" stroke="{EDGES[KEPT]}" '
        'stroke-width="1.5"/>',
        text(352, y + 6, "+", 20),
        arrow((368, y), (438, y)),
        text(402, y - 9, "p", 15, **{"font-style": "italic"}),
        box(440, y, 106, 56, SENT, "encode", "signs, top-k, …"),
        # What was not sent waits for the next step.
        box(302, low, 244, 62, KEPT, "error", "e ← p − decode(own message)"),
        arrow((402, y), (402, low - 33), edge=EDGES[KEPT]),
        arrow((493, y + 28), (493, low - 33), edge=EDGES[KEPT]),
        arrow((352, low - 31), (352, y + 18), edge=EDGES[KEPT]),
        text(344, y + 58, "e", 15, **{"font-style": "italic", "text-anchor": "end"}),
        text(501, y + 58, "message", 12, fill=PALE, **{"text-anchor": "start"}),
        arrow((546, y), (592, y)),
        box(594, y + 40, 108, 174, CROSSES, "exchange", "all_reduce,", "gather,",
            "two_way,", "or a vote"),
        arrow((702, y), (730, y)),
        box(732, y, 86, 56, SENT, "decode", "the mean"),
        arrow((818, y), (846, y)),
        box(848, y, 94, 56, OPTAX, "update", "of parameters"),
        text(837, low + 5, "the same to the bit", 13, fill=PALE),
    ]
    legend = [
        (SENT, "what is sent: a compressor"),
        (KEPT, "what is kept: error feedback, or nothing"),
        (CROSSES, "how it crosses: an exchange or a vote"),
    ]
    x = 64.0
    for fill, words in legend:
        parts += [
            f'<rect x="{x:g}" y="303" width="16" height="16" rx="4" fill="{fill}" '
            f'stroke="{EDGES[fill]}" stroke-width="1.5"/>',
            text(x + 24, 316, words, 14, **{"text-anchor": "start"}),
        ]
        x += 56 + 7.2 * len(words)
    return "\n".join([
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 984 336" role="img" '
        'aria-label="A local gradient passes optax transforms; the error is added, the '
        'sum encoded, the message exchanged and decoded, and what the message lacks '
        'becomes the next error." font-family="Helvetica, Arial, sans-serif">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto-start-reverse">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker></defs>',
        f'<rect width="984" height="336" rx="12" fill="{PAPER}"/>',
        *parts,
        "</svg>",
    ]) + "\n"


if __name__ == "__main__":
    FILE.write_text(drawing(), encoding="utf-8")
    print(FILE)
