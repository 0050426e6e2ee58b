"""The house style of figures: one question a figure, labelled axes with units, one colour for one role.

>>> show(curves(records, "validation_loss", ["baseline", "r_drop"]),
...      alt="Validation loss against updates: the baseline turns up, R-Drop stays flat.")

Each helper returns a `matplotlib.figure.Figure` that pyplot does not know of: nothing is drawn twice in a
notebook, no window opens and no figure is left in memory. Text in figures is English.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import math
import sys
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from kdutils.core.errors import UserError, unknown
from kdutils.notebook import tables
from kdutils.study import claims, measures

# Okabe and Ito's palette: distinguishable with every common kind of colour blindness.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
# One colour for one role in all notebooks. Arms with other names take the method colours in the order given.
COLOURS = {"baseline": BLUE, "method": VERMILLION, "student": VERMILLION, "teacher": GREEN, "truth": BLACK}
COLOURS["reference"] = "#767676"
METHODS = [VERMILLION, PURPLE, ORANGE, SKY, GREEN, BLACK]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
DASHES = ["-", "--", "-.", ":"]

STYLE = {
    "figure.figsize": (6.4, 3.6),
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.8,
    "axes.prop_cycle": matplotlib.cycler(color=[COLOURS["baseline"], *METHODS]),
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "svg.hashsalt": "kdutils",
}

UNITS = {
    "bleu": "BLEU (0 to 100)",
    "chrf": "chrF (0 to 100)",
    "accuracy": "accuracy (fraction)",
    "f1": "F1 (0 to 1)",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "loss": "loss (nats)",
    "nll": "negative log-likelihood (nats)",
    "kl": "KL divergence (nats)",
    "perplexity": "perplexity",
    "macro": "score (points)",
    "latency_ms": "time for one text (ms)",
    "minutes": "time (minutes)",
    "seconds": "time (seconds)",
    "peak_memory_mb": "peak memory (MB)",
    "parameters": "parameters (count)",
}


def use_style() -> None:
    """Makes matplotlib's own calls look like the helpers here. Call it once, at the head of a notebook."""
    matplotlib.rcParams.update(STYLE)


def house(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draws in the house style whatever the reader's settings are, and leaves those alone."""

    @functools.wraps(draw)
    def wrapped(*arguments, **options) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*arguments, **options)

    return wrapped


def metric_label(metric: str) -> str:
    """A metric with its unit: "test_bleu" -> "test BLEU (0 to 100)"; unknown names keep their words."""
    for name in sorted(UNITS, key=len, reverse=True):
        if metric == name or metric.endswith("_" + name):
            return (metric.removesuffix(name).replace("_", " ") + UNITS[name]).strip()
    return metric.replace("_", " ")


def arm_label(arm: str, labels: Mapping[str, str] | None = None) -> str:
    """The name of an arm for a legend: from `labels`, else the arm with blanks for underscores."""
    return (labels or {}).get(arm, str(arm).replace("_", " "))


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name: its role's, or the next of the method colours that none of them holds yet."""
    chosen = {name: COLOURS[name] for name in names if name in COLOURS}
    chosen |= {name: SKY for name in names if name.startswith("baseline_")}  # a longer or larger baseline
    free = [colour for colour in METHODS if colour not in chosen.values()] or METHODS
    others = [name for name in names if name not in chosen]
    return {name: chosen.get(name) or free[others.index(name) % len(free)] for name in names}


def blank(width: float = 6.4, height: float = 3.6, **options) -> tuple[Figure, Axes]:
    """An empty figure (inches) and its axes, or array of axes with `nrows` or `ncols`; unknown to pyplot."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(**options)


# ---------------------------------------------------------------- figures


@house
def curves(
    records: Sequence[dict],
    metric: str,
    arms: Sequence[str],
    kind: str = "eval",
    *,
    band: str = "range",
    ylabel: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """How does `metric` move in training? Mean over seeds, thin lines for each seed, a band around the mean.

    `band`: "range" (smallest to largest seed) or "interval" (95 % Student t). `kind`: rows of the history,
    "eval" or "train". Raises UserError when an arm or the metric is not in the records.
    """
    if band not in ("range", "interval"):
        raise unknown("band", band, ["range", "interval"])
    figure, axes = blank()
    for i, (arm, colour) in enumerate(colours(arms).items()):
        traces = _traces(records, arm, metric, kind)
        name = f"{arm_label(arm, labels)} ({_seeds_text(traces)})"
        _draw_curve(axes, traces, band, colour=colour, dash=DASHES[i % len(DASHES)], label=name)
    axes.set(xlabel="update (optimiser step)", ylabel=ylabel or metric_label(metric))
    title = {"range": "smallest to largest seed", "interval": "95 % interval"}[band]
    axes.legend(title=f"mean; band: {title}" if len(records) > 1 else None, title_fontsize=8)
    return figure


def _traces(records: Sequence[dict], arm: str, metric: str, kind: str) -> list[dict[int, float]]:
    """One {update: value} for each record that has the arm."""
    measures.from_history(records, arm, metric, max, kind)  # raises when the arm or the metric is unknown
    having = [record for record in records if arm in record["arms"]]
    return [dict(zip(*measures.history(record, arm, metric, kind), strict=True)) for record in having]


def _seeds_text(traces: Sequence[Mapping[int, float]]) -> str:
    broken = sum(not np.isfinite(list(trace.values())).all() for trace in traces)
    text = "1 seed" if len(traces) == 1 else f"{len(traces)} seeds"
    return f"{text}, {broken} not finite" if broken else text


def _draw_curve(
    axes: Axes, traces: Sequence[Mapping[int, float]], band: str, *, colour: str, dash: str, label: str
) -> None:
    shared = sorted(set.intersection(*map(set, traces)))  # a mean over other seeds at each update would jump
    values = np.array([[trace[update] for update in shared] for trace in traces]).reshape(len(traces), -1)
    for trace in traces if len(traces) > 1 else []:
        axes.plot(list(trace), list(trace.values()), color=colour, linewidth=0.7, alpha=0.45)
    if len(traces) > 1:
        low, high = values.min(0), values.max(0)
        if band == "interval":
            low, high = np.array([claims.interval(column)[1:] for column in values.T]).reshape(-1, 2).T
        axes.fill_between(shared, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(shared, values.mean(0), color=colour, linestyle=dash, label=label)


@house
def bars_with_seeds(
    values: Mapping[str, Mapping[int, float]],
    ylabel: str,
    *,
    labels: Mapping[str, str] | None = None,
    reference: float | None = None,
    reference_label: str = "reference",
) -> Figure:
    """How do the arms compare? A dot for each seed, joined across arms; the mean with its 95 % interval."""
    figure, axes = blank(max(3.6, 1.6 + 1.1 * len(values)), 3.4)
    for seed in sorted({seed for column in values.values() for seed in column}):
        line = [column.get(seed, math.nan) for column in values.values()]
        axes.plot(range(len(values)), line, color="#bbbbbb", linewidth=0.8, zorder=1)
    for x, (arm, colour) in enumerate(colours(list(values)).items()):
        _draw_seeds(axes, x, list(values[arm].values()), colour, MARKERS[x % len(MARKERS)])
    _draw_reference(axes, reference, reference_label)
    axes.set_xticks(range(len(values)), [arm_label(arm, labels) for arm in values])
    axes.set(xlim=(-0.6, len(values) - 0.4), ylabel=ylabel, xlabel="dots: seeds; bar: mean and 95 % interval")
    axes.xaxis.label.set_size(8)
    axes.grid(axis="x", visible=False)
    return figure


def _draw_seeds(axes: Axes, x: float, numbers: Sequence[float], colour: str, marker: str) -> None:
    """The seeds of one arm as dots at x, and to their right the mean with its interval."""
    finite = [number for number in numbers if math.isfinite(number)]
    axes.scatter([x] * len(finite), finite, color=colour, marker=marker, s=28, zorder=3, edgecolor="white")
    mean, low, high = claims.interval(numbers)
    if math.isfinite(mean):
        axes.plot([x + 0.14, x + 0.34], [mean, mean], color=colour, linewidth=2.6, zorder=3)
        axes.plot([x + 0.24] * 2, [low, high], color=colour, linewidth=1.2, zorder=2)
    if len(finite) < len(numbers):
        text = f"{len(numbers) - len(finite)} not finite"
        axes.annotate(text, (x, 0.02), xycoords=("data", "axes fraction"), ha="center", color=colour, fontsize=8)


def _draw_reference(axes: Axes, reference: float | None, label: str) -> None:
    if reference is not None:
        axes.axhline(reference, color=COLOURS["reference"], linestyle=":", linewidth=1.4, label=label)
        axes.legend()


@house
def sweep(
    points: Mapping[float, Sequence[float] | Mapping[int, float]],
    xlabel: str,
    ylabel: str,
    *,
    reference: float | None = None,
    reference_label: str = "reference",
    log: bool = False,
) -> Figure:
    """Where is the best setting? Seeds as dots over x, a line through the means; `reference`: the baseline.

    `points`: {x: values of the seeds}, as a list or as {seed: value}. `log`: logarithmic x.
    """
    figure, axes = blank()
    colour = COLOURS["method"]
    columns = {x: list(v.values()) if isinstance(v, Mapping) else list(v) for x, v in sorted(points.items())}
    dots = [(x, number) for x, numbers in columns.items() for number in numbers]
    axes.scatter(*zip(*dots, strict=True), color=colour, alpha=0.55, s=22, label="one seed", edgecolor="white")
    means = [claims.interval(numbers)[0] for numbers in columns.values()]
    axes.plot(list(columns), means, color=colour, marker="_", markersize=14, label="mean over seeds")
    if log:
        axes.set_xscale("log")
    axes.set_xticks(list(columns), [f"{x:g}" for x in columns], minor=False)
    axes.minorticks_off()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    _draw_reference(axes, reference, reference_label)
    axes.legend()
    return figure


@house
def distributions(
    words: Sequence[str],
    probabilities: Mapping[str, Sequence[float]],
    *,
    log: bool = False,
    xlabel: str = "probability of the next word",
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """Which words does each model expect? Grouped horizontal bars, the first word on top.

    `probabilities`: {name: one number a word}. `log` shows the small ones, where dark knowledge sits. Raises
    UserError when lengths differ.
    """
    for name, row in probabilities.items():
        if len(row) != len(words):
            raise UserError(f"'{name}' has {len(row)} probabilities for {len(words)} words: give one a word.")
    height = 0.8 / max(len(probabilities), 1)
    figure, axes = blank(6.4, 1.1 + 0.22 * len(words) * max(1.4, 0.8 * len(probabilities)))
    for i, (name, colour) in enumerate(colours(list(probabilities)).items()):
        y = np.arange(len(words)) + (i - (len(probabilities) - 1) / 2) * height
        bars = np.asarray(probabilities[name], dtype=float)
        label = arm_label(name, labels)
        if log:  # the length of a bar means nothing without a zero
            axes.plot(bars, y, MARKERS[i % len(MARKERS)], color=colour, label=label, markersize=6)
        else:
            axes.barh(y, bars, height * 0.92, color=colour, label=label)
    axes.set_yticks(range(len(words)), list(words))
    axes.invert_yaxis()
    axes.set(xlabel=xlabel + (", logarithmic" if log else ""), xscale="log" if log else "linear")
    axes.grid(axis="y", visible=log)
    if len(probabilities) > 1:
        axes.legend()
    return figure


@house
def heatmap(
    matrix: Sequence, xlabels: Sequence[str], ylabels: Sequence[str], label: str, *, xlabel: str = "", ylabel: str = ""
) -> Figure:
    """Which token looks at, or weighs on, which? Rows `ylabels`, columns `xlabels`; `label`: the value.

    Up to 12 x 12 cells carry their number. Signed values get a scale that is white at zero.
    """
    import seaborn  # heavy, and needed here only

    matrix = np.asarray(matrix, dtype=float)
    if matrix.shape != (len(ylabels), len(xlabels)):
        raise UserError(f"A matrix of shape {matrix.shape} needs one label for each row and each column.")
    signed = bool(np.nanmin(matrix) < 0 < np.nanmax(matrix))
    figure, axes = blank(2.4 + 0.5 * len(xlabels), 1.4 + 0.34 * len(ylabels))
    seaborn.heatmap(
        matrix,
        ax=axes,
        annot=max(matrix.shape) <= 12,
        fmt=".2f",
        annot_kws={"fontsize": 8},
        linewidths=0.6,
        **({"cmap": "PuOr_r", "center": 0} if signed else {"cmap": "Blues"}),
    )
    axes.set_xticklabels(xlabels)
    axes.set_yticklabels(ylabels)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=label)
    axes.tick_params(axis="x", rotation=0 if max(map(len, xlabels)) <= 5 else 45, length=0)
    axes.tick_params(axis="y", rotation=0, length=0)
    return figure


@house
def forest(graded: Sequence[tuple[str, claims.Grade]], xlabel: str) -> Figure:
    """By how much, on which bed? One row a bed and comparison: seeds, their mean and its 95 % interval, the paper's.

    graded: of one unit, as `claims.on_beds` gives them; a row is named by the bed and the claim's words. Raises
    UserError where there is nothing to draw.
    """
    rows = [(bed, grade) for bed, grade in graded if grade.values and math.isfinite(grade.mean)]
    if not rows:
        raise UserError("There is nothing to draw: none of these claims has a number yet.")
    names = [f"{bed},\n{textwrap.fill(grade.claim.words, 30)}" for bed, grade in rows]  # long ones squeeze the axis
    figure, axes = blank(6.4, 0.9 + 0.2 * len(rows) + 0.18 * sum(1 + name.count("\n") for name in names))
    axes.axvline(0, color=COLOURS["reference"], linewidth=1)
    for y, (_, grade) in enumerate(rows):
        colour = COLOURS["method"] if grade.verdict == claims.SUPPORTED else COLOURS["reference"]
        axes.scatter(list(grade.values.values()), [y] * grade.n, s=18, color=colour, alpha=0.5)
        if grade.low < grade.high:
            axes.plot([grade.low, grade.high], [y, y], color=colour, linewidth=3, solid_capstyle="round")
        axes.plot(grade.mean, y, "|", color="black", markersize=13, markeredgewidth=2)
        if grade.claim.published is not None:
            axes.plot(grade.claim.published, y, "D", markersize=7, markerfacecolor="white", color="black")
    axes.set_yticks(range(len(rows)), names)
    axes.set(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5))
    axes.grid(axis="y", visible=False)
    return figure


@house
def claims_figure(grades: Sequence[claims.Grade]) -> Figure:
    """What do the seeds say about each claim? One row a claim, on its own scale: interval, seeds, bound."""
    drawn = [g for g in grades if g.values and any(map(math.isfinite, g.values.values()))]
    if not drawn:
        raise UserError("None of these claims has a number to draw: run the experiment first.")
    figure, axes = blank(8.4, 0.5 + 0.72 * len(drawn), nrows=len(drawn), squeeze=False)
    for row, result in zip(axes[:, 0], drawn, strict=True):
        _draw_claim(row, result)
    axes[-1, 0].set_xlabel(
        "bar: 95 % interval and mean; dots: seeds; dashed: bound, claimed side shaded; diamond: paper", fontsize=8
    )
    return figure


def _draw_claim(axes: Axes, result: claims.Grade) -> None:
    claim = result.claim
    colour = tables.VERDICT_COLOURS[result.verdict][1]
    finite = [number for number in result.values.values() if math.isfinite(number)]
    axes.scatter(finite, [0] * len(finite), color=colour, alpha=0.5, s=18, zorder=3, edgecolor="white")
    if math.isfinite(result.mean):
        axes.plot([result.low, result.high], [0, 0], color=colour, linewidth=3, alpha=0.6, zorder=2)
        axes.plot(result.mean, 0, marker="|", markersize=15, markeredgewidth=2.4, color=colour, zorder=4)
    if claim.published is not None:
        axes.plot(claim.published, 0, marker="D", markersize=7, markerfacecolor="white", color="black", zorder=5)
    _draw_bound(axes, claim)
    axes.set(ylim=(-1, 1), yticks=[0], yticklabels=[f"{claim.id}  {claim.unit}".rstrip()])
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    broken = result.n - len(finite)
    text = claims.marked(result.verdict) + (f"\n{broken} of {result.n} not finite" if broken else "")
    axes.annotate(text, (1.01, 0.5), xycoords="axes fraction", va="center", color=colour, fontsize=9)


def _draw_bound(axes: Axes, claim: claims.Claim) -> None:
    """The line that the interval must clear, and the claimed side as a light ground."""
    margin = claim.margin if claim.kind == "equivalence" else claim.tolerance if claim.kind == "exact" else 0.0
    edges = [claim.bound - margin, claim.bound + margin]
    axes.margins(x=0.12)
    for edge in set(edges):
        axes.axvline(edge, color=COLOURS["reference"], linestyle="--", linewidth=1.2, zorder=1)
    low, high = axes.get_xlim()
    if claim.kind == "direction":
        edges = [claim.bound, high] if claim.better[0] == ">" else [low, claim.bound]
    axes.axvspan(*edges, color=COLOURS["teacher"], alpha=0.10, linewidth=0, zorder=0)
    axes.set_xlim(low, high)


@house
def scheme(boxes: Mapping[str, tuple], arrows: Sequence[tuple], *, width: float = 4.8, row: float = 0.92) -> Figure:
    """How does the method work? Boxes and the arrows between them, from top to bottom, readable on a phone.

    `boxes`: {name: (column, row, text)} or (column, row, text, colour), where row 0 is the top one; columns and rows
    may be fractions. `arrows`: (from, to), (from, to, label), or (from, to, label, "both") with a head at either end.
    Texts may have several lines and $formulas$. `width` in inches (4.8 keep text at 11 points readable at 390 pixels),
    `row` the inches from one row to the next. Raises UserError for an unknown name and for boxes that overlap or stick
    out.
    """
    columns, rows = ([box[i] for box in boxes.values()] for i in (0, 1))
    figure = Figure(figsize=(width, row * (max(rows) - min(rows) + 0.9)), layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(min(columns) - 0.5, max(columns) + 0.5), ylim=(max(rows) + 0.45, min(rows) - 0.45))
    axes.axis("off")
    drawn = {name: _box(axes, *box) for name, box in boxes.items()}
    figure.draw_without_rendering()  # a box is as large as its text, which is known when it is drawn
    labels = [_arrow(axes, drawn, *arrow) for arrow in arrows]
    figure.draw_without_rendering()
    _check_room(figure, [*drawn.values(), *filter(None, labels)])
    return figure


def _box(axes: Axes, column: float, row: float, text: str, colour: str = COLOURS["reference"]) -> Text:
    light = [1 - 0.16 * (1 - part) for part in matplotlib.colors.to_rgb(colour)]
    style = {"boxstyle": "round,pad=0.5,rounding_size=0.4", "facecolor": light, "edgecolor": colour, "linewidth": 1.4}
    return axes.text(column, row, text, ha="center", va="center", fontsize=11, linespacing=1.3, bbox=style, zorder=3)


def _arrow(
    axes: Axes, drawn: Mapping[str, Text], start: str, end: str, label: str = "", heads: str = "end"
) -> Text | None:
    """Draws an arrow from the edge of one box to the edge of another; returns its label, if it has one."""
    for name in (start, end):
        if name not in drawn:
            raise unknown("box", name, drawn)
    extents = [drawn[name].get_bbox_patch().get_window_extent() for name in (start, end)]
    one, other = (np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2]) for box in extents)
    way = np.maximum(np.abs(other - one), 1e-9)  # how far the arrow runs, in pixels
    inside = [min(box.width / way[0], box.height / way[1]) / 2 for box in extents]  # the part of it in either box
    ends = [one + inside[0] * (other - one), other - inside[1] * (other - one)]
    begin, middle, tip = axes.transData.inverted().transform([ends[0], (ends[0] + ends[1]) / 2, ends[1]])
    style = {"arrowstyle": "<|-|>" if heads == "both" else "-|>", "mutation_scale": 13, "shrinkA": 2, "shrinkB": 2}
    axes.annotate("", tip, begin, zorder=1, arrowprops={**style, "color": "#444444", "linewidth": 1.3})
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    return axes.text(*middle, label, ha="center", va="center", fontsize=10, bbox=ground, zorder=2) if label else None


def _check_room(figure: Figure, texts: Sequence[Text]) -> None:
    """Raises UserError for a text that sticks out of the figure or lies on another."""
    extents = [(text.get_text(), text.get_bbox_patch().get_window_extent()) for text in texts]
    for i, (text, box) in enumerate(extents):
        if not (box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1):
            raise UserError(f"'{text}' sticks out of the scheme: break it into lines, or give more width or row.")
        for other, second in extents[:i]:
            if box.overlaps(second):
                raise UserError(f"'{text}' lies on '{other}': break them into lines, or move them apart.")


# ---------------------------------------------------------------- notebooks


class Picture:
    """A figure with its alternative text: as an HTML image that carries it, as a PNG, and as the text alone.

    Templates of nbconvert and JupyterLab drop the text of a bare PNG, so the HTML is what they show. The PNG is for
    those that cannot show HTML, such as LaTeX; readers without images (terminals, mail, diffs) get the text.
    """

    def __init__(self, png: bytes, alt: str) -> None:
        self.png, self.alt = png, alt

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        png, alt = base64.b64encode(self.png).decode("ascii"), html.escape(" ".join(self.alt.split()))
        image = f'<img alt="{alt}" style="max-width:100%" src="data:image/png;base64,{png}">'
        return {"text/html": image, "image/png": png, "text/plain": self.alt}, {"image/png": {"alt": self.alt}}

    def __repr__(self) -> str:
        return self.alt


def picture(figure: Figure, alt: str) -> Picture:
    """Renders a figure; the same figure gives the same bytes. Raises UserError without alternative text.

    Also raises when the figure's font lacks a character: boxes in place of letters would be committed unseen.
    """
    if not alt.strip():
        raise UserError("A figure needs alternative text: say in one sentence what it shows.")
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        # Without matplotlib's version in the file, a new release does not change every committed figure.
        figure.savefig(buffer, format="png", dpi=STYLE["savefig.dpi"], metadata={"Software": None})
    if any("missing from" in str(warning.message) for warning in seen):
        raise UserError("The figure has characters that its font cannot draw: write its text in English.")
    return Picture(_smaller(buffer), alt)


def _smaller(png: io.BytesIO) -> bytes:
    """The PNG with a palette of 256 colours: about half the bytes, and no difference to the eye."""
    small = io.BytesIO()
    Image.open(png).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()


def show(figure: Figure, alt: str) -> None:
    """Displays a figure in a notebook as a PNG with alternative text and closes it; quiet outside IPython."""
    image = picture(figure, alt)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(figure)
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        sys.modules["IPython"].display.display(image)
