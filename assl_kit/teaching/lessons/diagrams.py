"""Drawn diagrams: the method, one LoRA layer, and the way of a question, as SVG made by code.

They need no font but the reader's, stand on white so that a dark page can show them, and say in words what they show.
"""

from __future__ import annotations

from html import escape
from math import cos, pi, sin
from random import Random

from ..style import EXPERT_COLOURS

_BLUE, _INK, _GREY, _PALE = "#0072B2", "#222222", "#777777", "#EAF2FA"
_FONT = "font-family='Helvetica, Arial, sans-serif'"


class Diagram:
    """A picture of shapes and words. A notebook shows it as SVG; as text it is what it shows, in words.

    Parameters
    ----------
    width, height : int
        In pixels.
    words : str
        What the picture shows, for those who cannot see it.

    Examples
    --------
    >>> picture = Diagram(80, 40, "a box").box(5, 5, 70, 30, "one")
    >>> picture
    Diagram: a box
    >>> picture._repr_svg_().count("<rect")
    2
    """

    def __init__(self, width: int, height: int, words: str) -> None:
        self.width, self.height, self.words = width, height, words
        self._shapes: list[str] = [f"<rect width='{width}' height='{height}' fill='white'/>"]

    def __repr__(self) -> str:
        return f"Diagram: {self.words}"

    def _repr_svg_(self) -> str:
        size = f"width='{self.width}' height='{self.height}' viewBox='0 0 {self.width} {self.height}'"
        head = f"<svg xmlns='http://www.w3.org/2000/svg' {size} role='img' {_FONT}>"
        return "\n".join([head, f"<title>{escape(self.words)}</title>", *self._shapes, "</svg>"])

    def box(
        self, x: float, y: float, width: float, height: float, words: str = "", *, fill: str = _PALE, edge: str = _BLUE
    ) -> Diagram:
        """A box with words in its middle; a new line begins at ``\\n``."""
        shape = f"x='{x:g}' y='{y:g}' width='{width:g}' height='{height:g}'"
        self._shapes.append(f"<rect {shape} rx='5' fill='{fill}' stroke='{edge}'/>")
        return self.text(x + width / 2, y + height / 2, words) if words else self

    def text(
        self, x: float, y: float, words: str, *, size: float = 13, colour: str = _INK, anchor: str = "middle"
    ) -> Diagram:
        """Words around a point; several lines are centred on it."""
        lines = words.split("\n")
        for row, line in enumerate(lines):
            at = y + (row - (len(lines) - 1) / 2) * size * 1.25 + size * 0.35
            style = f"font-size='{size:g}' fill='{colour}' text-anchor='{anchor}'"
            self._shapes.append(f"<text x='{x:g}' y='{at:g}' {style}>{escape(line)}</text>")
        return self

    def dot(self, x: float, y: float, *, colour: str = _GREY, radius: float = 3.5, hollow: bool = False) -> Diagram:
        """A point."""
        paint = f"fill='white' stroke='{colour}'" if hollow else f"fill='{colour}'"
        self._shapes.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{radius:g}' {paint}/>")
        return self

    def ring(self, x: float, y: float, radius: float, *, colour: str = _GREY) -> Diagram:
        """A dashed circle."""
        paint = f"fill='none' stroke='{colour}' stroke-dasharray='4 4'"
        self._shapes.append(f"<circle cx='{x:g}' cy='{y:g}' r='{radius:g}' {paint}/>")
        return self

    def arrow(
        self, x1: float, y1: float, x2: float, y2: float, *, colour: str = _BLUE, width: float = 1.6, head: bool = True
    ) -> Diagram:
        """A straight line from one point to another, with a head at its end."""
        line = f"x1='{x1:g}' y1='{y1:g}' x2='{x2:g}' y2='{y2:g}'"
        self._shapes.append(f"<line {line} stroke='{colour}' stroke-width='{width:g}'/>")
        if head:
            length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5 or 1.0
            ux, uy = (x2 - x1) / length, (y2 - y1) / length
            corners = (
                (x2, y2),
                (x2 - 9 * ux + 4 * uy, y2 - 9 * uy - 4 * ux),
                (x2 - 9 * ux - 4 * uy, y2 - 9 * uy + 4 * ux),
            )
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
            self._shapes.append(f"<polygon points='{points}' fill='{colour}'/>")
        return self


def method_diagram(n_experts: int = 6) -> Diagram:
    """The whole method: above, how experts are made from records; below, how a question finds one.

    Parameters
    ----------
    n_experts : int
        The number of clusters and of experts, which is written into the picture. Four colours stand for all of them.

    Examples
    --------
    >>> "6 experts" in method_diagram(6)._repr_svg_()
    True
    """
    words = (
        "Records become points in a space; the space is divided into regions; in each region a few records are kept; "
        "on those of each region an expert is trained beside one frozen base. A question becomes a point too, and the "
        "expert of the nearest region answers it."
    )
    picture, random = Diagram(960, 330, words), Random(3)
    left, titles = (
        (20, 212, 404, 596, 788),
        ("records", "a space", "regions", "thinned, chosen", f"{n_experts} experts"),
    )
    for x, title, chapter in zip(left, titles, ("01", "02", "03", "04 and 05", "06"), strict=True):
        picture.box(x, 46, 152, 130, fill="#FBFCFE", edge="#C9D8E6")
        picture.text(x + 76, 20, title, size=15).text(x + 76, 37, f"chapter {chapter}", size=11, colour=_GREY)
    for x in left[1:]:
        picture.arrow(x - 36, 111, x - 5, 111)
    for row in range(5):
        picture.box(46 + 5 * row, 64 + 11 * row, 78, 42, fill="white", edge="#9BB7CE")
    picture.text(104, 129, "instruction\ninput → output", size=9.5)
    middles = ((40, 38), (112, 34), (46, 96), (112, 94))
    for number, (cx, cy) in enumerate(middles):
        for which in range(13):
            reach, angle = (5 + 20 * random.random()) if which else 0.0, 2 * pi * random.random()
            dx, dy = cx + reach * cos(angle), cy + reach * sin(angle)
            colour, kept = EXPERT_COLOURS[number], which in (0, 4, 8)
            picture.dot(left[1] + dx, 46 + dy).dot(left[2] + dx, 46 + dy, colour=colour)
            picture.dot(left[3] + dx, 46 + dy, colour=colour if kept else "#D5D5D5", radius=4.5 if kept else 3)
    picture.box(left[4] + 16, 62, 64, 98, "base,\nfrozen", fill="#EEEEEE", edge=_GREY)
    for number in range(4):
        picture.box(left[4] + 92, 62 + 25 * number, 44, 20, "LoRA", fill="white", edge=EXPERT_COLOURS[number])
    picture.text(20, 206, "and then, for every question:", size=12, colour=_GREY, anchor="start")
    steps = ("question", "a point\nin the same space", "nearest region?", "its expert\nanswers", "answer")
    for number, (x, step) in enumerate(zip(left, steps, strict=True)):
        plain = number in (0, 4)
        picture.box(x, 226, 152, 56, step, fill="white" if plain else _PALE)
        if number:
            picture.arrow(x - 36, 254, x - 5, 254)
    picture.arrow(480, 282, 480, 310, colour=_GREY, head=False).arrow(480, 310, 864, 310, colour=_GREY, head=False)
    picture.arrow(864, 310, 864, 285, colour=_GREY)
    return picture.text(672, 301, "far from all of them: the base answers alone (chapter 07)", size=11, colour=_GREY)


def lora_diagram(inner: int = 48, outer: int = 64, rank: int = 4) -> Diagram:
    """One layer with LoRA: the frozen matrix W, and beside it the thin matrices A and B, which are trained.

    Parameters
    ----------
    inner, outer, rank : int
        Numbers that come in, numbers that go out, and between A and B.

    Examples
    --------
    >>> "48 numbers" in lora_diagram()._repr_svg_()
    True
    """
    words = (
        f"x, {inner} numbers, goes two ways: through the frozen W, and through A, which leaves {rank} numbers, and B, "
        "which makes them as many as W gives. The second way is scaled by alpha / r and added to the first."
    )
    picture = Diagram(820, 270, words)
    picture.box(16, 106, 96, 54, f"x\n{inner} numbers", fill="white")
    picture.box(210, 20, 230, 92, f"W: {outer} × {inner}\nfrozen, never changed", fill="#EEEEEE", edge=_GREY)
    picture.box(210, 184, 120, 44, f"A: {rank} × {inner}", fill="#FFF3DC", edge="#E69F00")
    picture.box(396, 158, 44, 96, f"B:\n{outer}\n× {rank}", fill="#FFF3DC", edge="#E69F00")
    picture.text(362, 190, f"{rank}", size=11, colour=_GREY).text(262, 246, "trained; B begins at zero", size=11.5)
    picture.box(500, 184, 76, 44, "× α / r", fill="white")
    picture.box(620, 106, 44, 54, "+", fill="white")
    picture.box(712, 106, 96, 54, f"answer\n{outer} numbers", fill="white")
    picture.arrow(112, 126, 207, 70).arrow(112, 140, 207, 204, colour="#E69F00").arrow(
        330, 206, 393, 206, colour="#E69F00"
    )
    picture.arrow(440, 206, 497, 206, colour="#E69F00").arrow(440, 66, 622, 112)
    return picture.arrow(576, 200, 624, 158, colour="#E69F00").arrow(664, 133, 709, 133)


def routing_diagram() -> Diagram:
    """How the router decides: one clear question, one close call, and one that is far from every centroid.

    Examples
    --------
    >>> routing_diagram()._repr_svg_().count("<title>")
    1
    """
    words = (
        "Three centroids, each with a dashed circle around it. A clear question lies within one circle; a close call "
        "lies between two centroids, and its margin is small; a third question lies outside of all circles, and the "
        "base answers it alone."
    )
    picture = Diagram(860, 270, words)
    centroids, reach = ((140, 140), (310, 140), (480, 140)), 112
    for number, (x, y) in enumerate(centroids):
        colour = EXPERT_COLOURS[number]
        picture.ring(x, y, reach, colour=colour).dot(x, y, colour=colour, radius=8)
        picture.text(x, y + 22, f"expert {number}", size=12, colour=colour)
    clear, close, far = (104, 84), (230, 96), (740, 190)
    picture.arrow(*clear, 134, 132, colour=EXPERT_COLOURS[0], width=2.4)
    picture.arrow(*close, 301, 135, colour=EXPERT_COLOURS[1], width=2.4).arrow(*close, 149, 135, colour="#BBBBBB")
    picture.arrow(*far, 491, 142, colour="#BBBBBB")
    for x, y in (clear, close, far):
        picture.dot(x, y, colour=_INK, radius=5.5)
    picture.text(96, 66, "clear: a large margin", size=12).text(232, 78, "a close call: a small margin", size=12)
    picture.text(740, 218, "far from every centroid:\nthe base answers alone", size=12)
    return picture.text(740, 40, "dashed: as near as\nmin_similarity asks", size=12, colour=_GREY)
