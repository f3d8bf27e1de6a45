"""Charts as SVG, in strings. Colours and dashes are classes of the page's style.

A chart is 360 units wide, about as many pixels as a phone has, so that its letters can be read on
one; a page puts several side by side.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from keras_featx.report.page import text

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 360, 54, 14, 20, 38


@dataclass(frozen=True)
class Axis:
    """From values to places.

    Attributes:
        low: Its first value; positive on a logarithmic one.
        high: Its last value.
        name: What it shows.
        log: Powers of ten are as far from each other.
        show: Writes a value.
    """

    low: float
    high: float
    name: str = ""
    log: bool = False
    show: Callable[[float], str] = "{:.6g}".format

    def at(self, values) -> np.ndarray:
        """Places of values, 0 at the low end and 1 at the high one; those outside at the ends."""
        values = np.clip(np.asarray(values, "float64"), self.low, self.high)
        low, high = self.low, self.high
        if self.log:
            values, low, high = np.log10(values), math.log10(low), math.log10(high)
        return (values - low) / (high - low)

    def ticks(self) -> list[float]:
        """About five round values, on a logarithmic axis powers of ten.

        Example:
            >>> from keras_featx.report.charts import Axis
            >>> Axis(0, 0.9).ticks(), Axis(0.002, 1, log=True).ticks()
            ([0.0, 0.2, 0.4, 0.6, 0.8], [0.01, 0.1, 1.0])
        """
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            every = max(1, (last - first) // 5 + 1)
            return [10.0**power for power in range(first, last + 1) if (last - power) % every == 0]
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = unit * min((m for m in (1, 2, 5, 10)), key=lambda m: abs(math.log(m * unit / rough)))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        name: For the legend.
        x: Values along the horizontal axis.
        y: As many.
        style: Its colour and dash: a number from 0.
        dots: Mark each value.
        area: Fill what is below.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: int = 0
    dots: bool = False
    area: bool = False


def axis_of(values, name: str = "", zero: bool = False, **more) -> Axis:
    """An axis that values fit on, with some room; from zero on, if wanted."""
    low, high = float(np.min(values)), float(np.max(values))
    low = min(low, 0.0) if zero else low
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return Axis(low if zero and low == 0 else low - room, high + room, name, **more)


def lines(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    label: str,
    height: int = 210,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """A chart of lines, with upright marks at some values of the horizontal axis."""
    places = [LEFT + float(x.at(value)) * (WIDTH - LEFT - RIGHT) for value, _ in marks]
    drawn = [f'<path class="level" d="M{at:.1f} {TOP}V{height - BOTTOM}"/>' for at in places]
    for one in series:
        points = _points(one.x, one.y, x, y, height)
        path = "M" + "L".join(points)
        if one.area:
            base = _digits(height - BOTTOM)
            ends = (point.split(" ")[0] for point in (points[-1], points[0]))
            closed = path + "".join(f"L{end} {base}" for end in ends) + "Z"
            drawn.append(f'<path class="area s{one.style}" d="{closed}"/>')
        drawn.append(f'<path class="line s{one.style}" d="{path}"/>')
        if one.dots or len(points) == 1:
            places = (point.split(" ") for point in points)
            drawn += (
                f'<circle class="dot s{one.style}" cx="{px}" cy="{py}" r="2.4">'
                f"<title>{text(f'{one.name} {y.show(vy)} at {x.show(vx)}')}</title></circle>"
                for (px, py), vx, vy in zip(places, one.x, one.y, strict=True)
            )
    for i, (at, (_, name)) in enumerate(zip(places, marks, strict=True)):
        side, shift = ("end", -4) if at > WIDTH - 70 else ("start", 4)
        place = f'x="{at + shift:.1f}" y="{TOP + 10 + 14 * i}"'
        drawn.append(f'<text class="{side}" {place}>{text(name)}</text>')
    return chart(x, y, label, "".join(drawn), height)


def stairs(edges: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The outline of a histogram: of ``n`` bars between ``n + 1`` edges."""
    x = np.repeat(edges, 2)
    return x, np.concatenate([[0.0], np.repeat(heights, 2), [0.0]])


def dots(
    x_values, y_values, x: Axis, y: Axis, kinds: Sequence[str], titles: Sequence[str], height: int
) -> str:
    """Points, each with classes and a tooltip: squares where a class is so called, else circles."""
    drawn = []
    points = _points(x_values, y_values, x, y, height)
    for point, kind, title in zip(points, kinds, titles, strict=True):
        px, py = point.split(" ")
        shape = f'<circle class="{kind}" cx="{px}" cy="{py}" r="2.2">'
        if "square" in kind.split():
            corner = f'x="{float(px) - 2.2:.1f}" y="{float(py) - 2.2:.1f}"'
            shape = f'<rect class="{kind}" {corner} width="4.4" height="4.4">'
        end = "</rect>" if shape.startswith("<rect") else "</circle>"
        drawn.append(f"{shape}<title>{text(title)}</title>{end}")
    return "".join(drawn)


def note(x_value: float, y_value: float, x: Axis, y: Axis, words: str | int, height: int) -> str:
    """A few words at a place."""
    (point,) = _points([x_value], [y_value], x, y, height)
    px, py = point.split(" ")
    return f'<text class="note" x="{px}" y="{float(py) + 4:.1f}">{text(words)}</text>'


def chart(x: Axis, y: Axis, label: str, inside: str, height: int) -> str:
    """Axes, with what is drawn between them."""
    bottom = height - BOTTOM
    grid = []
    for value, (place,) in zip(y.ticks(), _ticks(y), strict=True):
        at = bottom - place * (bottom - TOP)
        grid.append(
            f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
            f'<text class="end" x="{LEFT - 6}" y="{at + 3.5:.1f}">{text(y.show(value))}</text>'
        )
    for value, (place,) in zip(x.ticks(), _ticks(x), strict=True):
        at = LEFT + place * (WIDTH - LEFT - RIGHT)
        grid.append(
            f'<path class="axis" d="M{at:.1f} {bottom}v4"/>'
            f'<text class="middle" x="{at:.1f}" y="{bottom + 15}">{text(x.show(value))}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    names = (
        f'<text class="name" x="0" y="10">{text(_short(y.name))}</text>'
        f'<text class="name middle" x="{middle:g}" y="{height - 5}">{text(x.name)}</text>'
    )
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{text(label)}">'
        f'{"".join(grid)}<path class="axis" d="M{LEFT} {bottom}H{WIDTH - RIGHT}"/>{names}{inside}'
        "</svg>"
    )


def legend(series: Sequence[Series]) -> str:
    """Names of lines, each beside a piece of it."""
    keys = (
        f'<li><svg class="key" viewBox="0 0 26 10" aria-hidden="true">'
        f'<path class="{"area" if one.area else "line"} s{one.style}" '
        f'd="{"M0 1H26V9H0Z" if one.area else "M0 5H26"}"/></svg>{text(one.name)}</li>'
        for one in series
    )
    return f'<ul class="legend">{"".join(keys)}</ul>'


def range_bar(value: float, low: float | None, high: float | None) -> str:
    """A fraction with its interval, on a line from 0 to 1."""
    inside = ""
    if low is not None:
        inside = f'<rect class="range" x="{200 * low:.1f}" y="3" width="{200 * (high - low):.1f}" '
        inside += 'height="6" rx="3"/>'
    return (
        '<svg class="bar" viewBox="0 0 200 12" aria-hidden="true">'
        f'<path class="track" d="M0 6H200"/>{inside}'
        f'<circle class="value" cx="{200 * value:.1f}" cy="6" r="4"/></svg>'
    )


def _short(name: str, most: int = 52) -> str:
    """A name that fits above a chart."""
    return name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def _ticks(axis: Axis) -> np.ndarray:
    return axis.at(axis.ticks())[:, None]


def _points(x_values, y_values, x: Axis, y: Axis, height: int) -> list[str]:
    across = LEFT + x.at(x_values) * (WIDTH - LEFT - RIGHT)
    up = height - BOTTOM - y.at(y_values) * (height - BOTTOM - TOP)
    return [f"{_digits(a)} {_digits(b)}" for a, b in zip(across, up, strict=True)]


def _digits(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
