"""The charts of the report, as SVG whose colours are CSS variables of the page around it."""

from __future__ import annotations

__all__ = [
    "COLOURS",
    "Series",
    "clean",
    "draw",
    "latency_chart",
    "plain_log_ticks",
    "quality_chart",
    "series",
    "speedup",
    "throughput_chart",
]

import dataclasses
import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mopt.records.manifest import Manifest
from mopt.records.measurement import BatchProfile, Profile
from mopt.records.quality import Quality
from mopt.records.trial import TrialRecord
from mopt.records.units import digits, is_share

_OTHERS = 4
"""How many candidates besides the chosen one and the reference have a colour of their own."""
_ROLES = ("text", "faint", "grid", "chosen", "reference", "other-1", "other-2", "other-3", "other-4", "bad", "page")
COLOURS = {role: f"#0{index:x}{index:x}{index:x}0{index:x}" for index, role in enumerate(_ROLES, start=1)}
"""Stand-ins that no chart uses for anything else; they become ``var(--role)``."""
_LONGEST_LABEL = 26


@dataclasses.dataclass(frozen=True)
class Series:
    """One line of the charts by batch size."""

    name: str
    role: str
    profile: Profile


def series(manifest: Manifest) -> tuple[Series, ...]:
    """Return the candidates that were measured at every batch size: the chosen one, the reference, then the fastest."""
    measured = [trial for trial in manifest.trials if trial.profile is not None and trial.profile.batches]
    names = [manifest.chosen, manifest.reference.name]
    rest = [trial for trial in measured if trial.name not in names and trial.profile and trial.profile.depth == "full"]
    rest.sort(key=lambda trial: _first(trial).p50.value)
    lines = []
    for trial in measured:
        if trial.name in names and trial.profile:
            role = "chosen" if trial.name == manifest.chosen else "reference"
            lines.append(Series(trial.name, role, trial.profile))
    lines.sort(key=lambda line: line.role)
    for index, trial in enumerate(rest[:_OTHERS], start=1):
        assert trial.profile is not None
        lines.append(Series(trial.name, f"other-{index}", trial.profile))
    return tuple(lines)


def latency_chart(manifest: Manifest) -> str:
    """Draw p50 by batch size with a band up to p99; empty when nothing was measured."""
    return _by_batch(
        "latency",
        "Latency by batch size",
        manifest,
        lambda entry: entry.p50.value,
        lambda entry: entry.p99.value,
        ("latency of a batch, ms (band up to p99)", "log"),
    )


def throughput_chart(manifest: Manifest) -> str:
    """Draw samples per second by batch size; empty when nothing was measured."""
    return _by_batch(
        "throughput",
        "Throughput by batch size",
        manifest,
        lambda entry: entry.throughput,
        None,
        ("samples per second", "linear"),
    )


def quality_chart(manifest: Manifest) -> str:
    """Draw quality against speed for every candidate that has both; empty when fewer than two do."""
    points = [_Point.of(trial, manifest) for trial in manifest.trials if _plottable(trial)]
    return draw("quality", "Quality against speed", (9.6, 5.2), lambda axes: _scatter(axes, points)) if points[1:] else ""


def speedup(trial: TrialRecord, manifest: Manifest, batch: int) -> tuple[float, bool] | None:
    """Return how much faster than the reference at a batch size, and whether the two were measured interleaved."""
    here, there = _entry(trial, batch), _entry(manifest.reference, batch)
    if trial.name == manifest.reference.name:
        return 1.0, True
    if here is not None and here.ratio is not None:
        return here.ratio.value, True
    if here is None or there is None:
        return None
    return there.p50.value / here.p50.value, False


def _entry(trial: TrialRecord, batch: int) -> BatchProfile | None:
    batches = trial.profile.batches if trial.profile else ()
    return next((entry for entry in batches if entry.batch == batch), None)


def _first(trial: TrialRecord) -> BatchProfile:
    assert trial.profile is not None
    return trial.profile.batches[0]


def _plottable(trial: TrialRecord) -> bool:
    return trial.quality is not None and trial.profile is not None and bool(trial.profile.batches)


def _by_batch(
    name: str,
    title: str,
    manifest: Manifest,
    middle: Callable[[BatchProfile], float],
    upper: Callable[[BatchProfile], float] | None,
    ordinate: tuple[str, str],
) -> str:
    lines = series(manifest)
    if not lines:
        return ""

    def paint(axes: Any) -> None:
        for line in reversed(lines):
            _line(axes, line, middle, upper)
        batches = sorted({entry.batch for line in lines for entry in line.profile.batches})
        axes.set_xscale("log", base=2)
        axes.set_yscale(ordinate[1])
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.minorticks_off()
        axes.set_xlabel("batch size")
        axes.set_ylabel(ordinate[0])
        if ordinate[1] == "log":
            plain_log_ticks(axes)
        else:
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(lambda value, _: digits(value))

    return draw(name, title, (5.6, 3.6), paint)


def _line(
    axes: Any, line: Series, middle: Callable[[BatchProfile], float], upper: Callable[[BatchProfile], float] | None
) -> None:
    entries = sorted(line.profile.batches, key=lambda entry: entry.batch)
    batches, values = [entry.batch for entry in entries], [middle(entry) for entry in entries]
    chosen = line.role == "chosen"
    axes.plot(
        batches,
        values,
        color=COLOURS[line.role],
        linewidth=2.4 if chosen else 1.4,
        linestyle="--" if line.role == "reference" else "-",
        marker="o",
        markersize=4.5 if chosen else 3.2,
    )
    if upper is not None:
        tops = [upper(entry) for entry in entries]
        alpha = 0.16 if line.role in ("chosen", "reference") else 0.07
        axes.fill_between(batches, values, tops, color=COLOURS[line.role], alpha=alpha, linewidth=0)


def plain_log_ticks(axes: Any) -> None:
    """Label a logarithmic ordinate with everyday numbers."""
    low, high = axes.get_ylim()
    steps = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**exponent for exponent in exponents for step in steps if low <= step * 10.0**exponent <= high]
    axes.set_yticks(ticks, [digits(tick, 1) for tick in ticks])
    axes.set_ylim(low, high)


@dataclasses.dataclass(frozen=True)
class _Point:
    """A candidate on the plane of speed and quality; ``scale`` turns a difference into what the axis shows.

    ``quick`` is one whose speed is from a quick look, which is drawn hollow.
    """

    label: str
    speed: float
    quality: Quality
    role: str
    scale: float
    quick: bool

    @classmethod
    def of(cls, trial: TrialRecord, manifest: Manifest) -> _Point:
        quality = trial.quality
        assert quality is not None
        speed = speedup(trial, manifest, _first(trial).batch)
        role = "other-1"
        if trial.name == manifest.chosen:
            role = "chosen"
        elif trial.name == manifest.reference.name:
            role = "reference"
        elif trial.outcome is not None and quality.verdict == "fail":
            role = "bad"
        quick = trial.profile is not None and trial.profile.depth == "screening"
        scale = 100.0 if is_share(quality.metric) else 1.0
        return cls(clean(trial.name), speed[0] if speed else 1.0, quality, role, scale, quick)

    @property
    def difference(self) -> float:
        return self.quality.difference * self.scale

    @property
    def bound(self) -> float:
        return self.quality.bound * self.scale

    @property
    def allowed(self) -> float:
        return self.quality.allowed * self.scale


def _scatter(axes: Any, points: Sequence[_Point]) -> None:
    for point in points:
        colour = COLOURS[point.role]
        axes.plot([point.speed] * 2, [min(point.difference, point.bound), point.difference], color=colour, linewidth=1.2)
        axes.plot(
            [point.speed],
            [point.difference],
            color=colour,
            marker="D" if point.role == "reference" else "x" if point.role == "bad" else "o",
            markersize=8 if point.role == "chosen" else 6,
            fillstyle="none" if point.quick else "full",
            linestyle="none",
        )
    _quality_axis(axes, points)
    _speed_axis(axes, points)
    for allowed in sorted({point.allowed for point in points}):
        axes.axhline(allowed, color=COLOURS["bad"], linewidth=1.2, linestyle=(0, (5, 3)))
    axes.axvline(1.0, color=COLOURS["faint"], linewidth=1)
    metric = clean(points[0].quality.metric)
    axes.set_xlabel("speed-up over the reference at the smallest batch")
    axes.set_ylabel(f"{metric}: difference to the reference{', pp' if points[0].scale == 100 else ''}")
    _place_labels(axes, points)


def _speed_axis(axes: Any, points: Sequence[_Point]) -> None:
    low, high = min(point.speed for point in points), max(point.speed for point in points)
    low, high = min(low, 1.0) / 1.15, max(high, 1.0) * 1.45  # room for labels on the right
    axes.set_xscale("log")
    axes.minorticks_off()
    steps = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
    ticks = [tick for tick in steps if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}\N{MULTIPLICATION SIGN}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(low, high)


def _quality_axis(axes: Any, points: Sequence[_Point]) -> None:
    """Linear, or linear near zero and logarithmic below when a candidate is far out."""
    low = min(min(point.bound, point.difference, point.allowed) for point in points)
    high = max(max(point.difference, 0.0) for point in points)
    near = max((abs(point.allowed) for point in points), default=0.0) or min(
        (abs(point.difference) for point in points if point.difference), default=1.0
    )
    if low < -4 * near:
        axes.set_yscale("symlog", linthresh=near, linscale=1.0)
        steps = [mantissa * 10.0**exponent for exponent in range(6) for mantissa in (1, 2, 5)]
        ticks = [0.0, -near / 2, *(-near * step for step in steps if near * step <= -low * 1.2)]
        ticks += [near] if high >= near else []
        axes.set_yticks(ticks, [digits(tick, 2) for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(low * 1.6, high * 1.6 + near * 0.5)
    else:
        span = (high - low) or 1.0
        axes.set_ylim(low - 0.12 * span, high + 0.18 * span)
        axes.yaxis.set_major_formatter(lambda value, _: digits(round(value, 9), 2))


def _place_labels(axes: Any, points: Sequence[_Point]) -> None:
    """Put each name beside its point where it covers no other name, point or error bar."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    axes.figure.draw_without_rendering()
    unit = axes.transData.transform((1.0, 0.0))[0]
    taken = [*(_box_of(axes, point) for point in points), _Box(unit - 1, 0, unit + 1, axes.figure.bbox.height)]
    allowed = [axes.transData.transform((1.0, point.allowed))[1] for point in points[:1]]
    frame = axes.get_window_extent(renderer)
    for point in sorted(points, key=lambda item: (item.role != "chosen", item.role != "reference", -item.speed)):
        text = axes.text(
            0, 0, point.label, fontsize=9, color=COLOURS["text"], weight="bold" if point.role == "chosen" else "normal"
        )
        extent = text.get_window_extent(renderer)
        size = (extent.width * 1.05, extent.height)
        x, y = axes.transData.transform((point.speed, point.difference))
        spots = [_Box.around(x + dx, y + dy, size) for dx, dy in _offsets(size)]
        inside = [spot for spot in spots if spot.within(frame)] or spots
        best = min(inside, key=lambda spot: spot.cost(taken, allowed, (x, y)))
        taken.append(best)
        text.set_position(axes.transData.inverted().transform((best.left, best.bottom)))
        text.set_verticalalignment("bottom")
        if best.distance(x, y) > 16:
            axes.annotate(
                "",
                xy=(x, y),
                xytext=best.nearest(x, y),
                xycoords="figure pixels",
                textcoords="figure pixels",
                arrowprops={
                    "arrowstyle": "-",
                    "color": COLOURS["faint"],
                    "linewidth": 0.7,
                    "shrinkA": 1,
                    "shrinkB": 4,
                },
            )


def _offsets(size: tuple[float, float]) -> Iterator[tuple[float, float]]:
    """Centres of a label relative to its point, nearest first."""
    width, height = size
    for step in range(7):
        reach = step * height * 1.15
        for direction in (0, 1, -1) if step == 0 else (1, -1):
            yield width / 2 + 8, direction * reach
            yield -width / 2 - 8, direction * reach
            yield 0.0, direction * (reach + height * 0.5 + 8)


@dataclasses.dataclass(frozen=True)
class _Box:
    left: float
    bottom: float
    right: float
    top: float

    @classmethod
    def around(cls, x: float, y: float, size: tuple[float, float]) -> _Box:
        return cls(x - size[0] / 2, y - size[1] / 2, x + size[0] / 2, y + size[1] / 2)

    def within(self, frame: Any) -> bool:
        return bool(self.left >= frame.x0 and self.right <= frame.x1 and self.bottom >= frame.y0 and self.top <= frame.y1)

    def overlap(self, box: _Box) -> float:
        width = min(self.right, box.right) - max(self.left, box.left)
        height = min(self.top, box.top) - max(self.bottom, box.bottom)
        return max(0.0, width) * max(0.0, height)

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        return min(max(x, self.left), self.right), min(max(y, self.bottom), self.top)

    def distance(self, x: float, y: float) -> float:
        near = self.nearest(x, y)
        return math.hypot(near[0] - x, near[1] - y)

    def cost(self, taken: Sequence[_Box], lines: Sequence[float], point: tuple[float, float]) -> float:
        covered = sum(self.overlap(box) for box in taken)
        struck = sum(self.bottom - 1 < line < self.top + 1 for line in lines)
        return covered * 100 + struck * 40 + self.distance(*point)


def _box_of(axes: Any, point: _Point) -> _Box:
    x, top = axes.transData.transform((point.speed, max(point.difference, point.bound)))
    bottom = axes.transData.transform((point.speed, min(point.difference, point.bound)))[1]
    return _Box(x - 5, bottom - 2, x + 5, top + 5)


def draw(name: str, title: str, size: tuple[float, float], paint: Callable[[Any], None]) -> str:
    """Draw one chart of a size in inches as SVG for a page that has the colours."""
    import matplotlib
    from matplotlib.figure import Figure

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "mopt",
        "font.family": "sans-serif",
        "font.size": 10,
        "text.parse_math": False,
        "text.color": COLOURS["text"],
        "axes.edgecolor": COLOURS["grid"],
        "axes.labelcolor": COLOURS["text"],
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": COLOURS["grid"],
        "grid.linewidth": 0.7,
        "xtick.color": COLOURS["grid"],
        "ytick.color": COLOURS["grid"],
        "xtick.labelcolor": COLOURS["text"],
        "ytick.labelcolor": COLOURS["text"],
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has the fonts, not matplotlib
        figure = Figure(figsize=size, dpi=72, layout="constrained")
        paint(figure.add_subplot())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _inline(stream.getvalue(), name, title)


def _inline(svg: str, name: str, title: str) -> str:
    """Make a stand-alone SVG a part of a page: no prologue, no metadata, names of its own, colours of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"', r"\1\2", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"([^>]*?) height="[^"]*"', r"\1\2", svg, count=1)
    svg = re.sub(r" ?font-family: [^;]*;", "", svg)
    for role, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{role})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def clean(text: str) -> str:
    """Leave out what XML cannot hold, what would break a line, and what is too long for a chart."""
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"
