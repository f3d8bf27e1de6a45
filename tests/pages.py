"""What tests read of HTML pages and the charts in them."""

import html.parser
import re
from xml.etree import ElementTree

import numpy as np


class Page(html.parser.HTMLParser):
    """What a page loads, what it says, and whether its elements close."""

    EMPTY = {"meta", "img", "br", "rect", "path", "line", "link", "input"}

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.seen, self.words = [], [], [], []
        self.text = text
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href")]
        assert not [name for name, _ in attrs if name.startswith("on")], "a handler of events"
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def check(self):
        """It is whole, and needs nothing from elsewhere."""
        assert self.open == [] and self.seen.count("html") == 1
        assert "script" not in self.seen
        assert all(address.startswith(("data:", "#")) for address in self.loads)
        assert not re.search(r"url\((?!#|data:)|@import|https?://", self.text)

    @property
    def said(self):
        """All words, with single spaces."""
        return " ".join(" ".join(self.words).split())


class Chart:
    """A chart, read as a person reads it: by the ticks of its axes."""

    def __init__(self, svg):
        self.svg = ElementTree.fromstring(svg)
        ends = [
            t for t in self.svg.iter("text") if t.get("class") == "end" and float(t.get("x")) < 60
        ]
        grid = [p for p in self.svg.iter("path") if p.get("class") == "grid"]
        self.up = [
            (float(re.search(r" ([\d.]+)H", p.get("d"))[1]), number(t.text))
            for p, t in zip(grid, ends, strict=True)
        ]
        self.across = [
            (float(t.get("x")), number(t.text))
            for t in self.svg.iter("text")
            if t.get("class") == "middle"
        ]

    def line(self, style, log=False):
        """The values of the line of a style."""
        (path,) = [p for p in self.svg.iter("path") if p.get("class") == f"line s{style}"]
        points = re.findall(r"(-?[\d.]+) (-?[\d.]+)", path.get("d"))
        x, y = np.array(points, float).T
        return read(x, self.across), read(y, self.up, log)


def read(places, ticks, log=False):
    """From places to values, by the first and the last tick."""
    (p0, v0), (p1, v1) = ticks[0], ticks[-1]
    if log:
        v0, v1 = np.log10([v0, v1])
    values = v0 + (places - p0) * (v1 - v0) / (p1 - p0)
    return 10**values if log else values


def number(text):
    return float(text.removesuffix(" %"))


def charts(text):
    """The charts of a page, by their labels."""
    found = re.findall(r'<svg class="chart".*?</svg>', text, re.DOTALL)
    return {re.search(r'aria-label="([^"]*)"', svg)[1]: Chart(svg) for svg in found}
