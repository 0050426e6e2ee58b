"""Figures: produced, labelled, small, the same bytes twice, and with alternative text in their metadata."""

import io
import math
import re
import warnings

import matplotlib
import nbformat
import numpy as np
import pytest
from PIL import Image

from kdutils.core.errors import UserError
from kdutils.notebook import plots, reading, tables
from kdutils.study import claims


def record(seed, shift=0.0):
    def history(level):
        return [
            {"update": u, "kind": kind, "loss": level + 3 * math.exp(-u / 50) + 0.01 * seed + shift}
            for u in range(20, 101, 20)
            for kind in ("train", "eval")
        ]

    arms = {
        name: {"metrics": {"bleu": level}, "history": history(level)} for name, level in (("baseline", 1), ("rd", 2))
    }
    return {"paper": "p", "preset": "demo", "seed": seed, "settings": {}, "arms": arms}


RECORDS = [record(seed) for seed in (1, 2, 3)]
GRADES = [
    claims.grade(claims.Claim(name, "s", lambda r, v=values: v, unit="BLEU", published=1.0, **options), RECORDS)
    for name, values, options in [
        ("R1", {1: 1.0, 2: 1.1, 3: 1.3}, {}),
        ("R2", {1: 1.0, 2: math.nan, 3: 1.3}, {"better": "<"}),
        ("R3", {1: 0.0}, {"kind": "equivalence", "margin": 0.3}),
        ("R4", {1: 0.0, 2: 0.0, 3: 0.0}, {"kind": "exact"}),
        ("R5", {}, {}),
    ]
]
FIGURES = {
    "curves": lambda: plots.curves(RECORDS, "loss", ["baseline", "rd"]),
    "curves with intervals": lambda: plots.curves(RECORDS, "loss", ["baseline", "rd"], "train", band="interval"),
    "curves of one seed": lambda: plots.curves(RECORDS[:1], "loss", ["rd"]),
    "bars": lambda: plots.bars_with_seeds({"baseline": {1: 1.0, 2: 2.0}, "rd": {1: 3.0}}, "test BLEU", reference=1.0),
    "sweep": lambda: plots.sweep({1: [1.0, 2.0], 10: {1: 3.0}}, "alpha", "test BLEU", log=True, reference=0.5),
    "distributions": lambda: plots.distributions(["der", "die"], {"truth": [0.5, 0.5], "teacher": [0.1, 0.9]}),
    "distributions, log": lambda: plots.distributions(["der", "die"], {"truth": [0.5, 1e-9]}, log=True),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_labelled_small_and_reproducible(name):
    figure = FIGURES[name]()
    axes = figure.axes[0]
    assert axes.get_xlabel()
    assert axes.get_ylabel() or [label.get_text() for label in axes.get_yticklabels()] == ["der", "die"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png = plots.picture(figure, "what it shows").png
    assert len(png) < 60_000
    assert png == plots.picture(FIGURES[name](), "what it shows").png
    assert Image.open(io.BytesIO(png)).width > 300


def test_heatmap_labels_its_tokens():
    figure = plots.heatmap([[0.1, 0.9]], ["a", "b"], ["x"], "attention weight", xlabel="source", ylabel="target")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")) == (
        "source",
        "target",
        "attention weight",
    )
    assert {text.get_text() for text in axes.texts} == {"0.10", "0.90"}
    with pytest.raises(UserError, match="one label"):
        plots.heatmap([[0.1, 0.9]], ["a"], ["x"], "attention weight")


def test_signed_heatmap_is_white_at_zero():
    mesh = plots.heatmap([[-1.0, 0.0, 3.0]], ["a", "b", "c"], ["x"], "gradient").axes[0].collections[0]
    assert np.allclose(mesh.to_rgba([0.0])[0, :3], 1.0, atol=0.06)


def test_a_forest_has_a_row_for_each_bed_and_comparison_with_a_number():
    graded = [("grammar", GRADES[0]), ("captions", GRADES[3]), ("nowhere", GRADES[1]), ("here", GRADES[-1])]
    axes = plots.forest(graded, "BLEU").axes[0]
    assert [label.get_text().split(",")[0] for label in axes.get_yticklabels()] == ["grammar", "captions"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row on top
    with pytest.raises(UserError, match="nothing to draw"):
        plots.forest(graded[-1:], "BLEU")


def test_claims_figure_has_a_row_for_each_claim_with_a_number():
    figure = plots.claims_figure(GRADES)
    assert [axes.get_yticklabels()[0].get_text() for axes in figure.axes] == [f"R{i}  BLEU" for i in (1, 2, 3, 4)]
    words = [axes.texts[0].get_text() for axes in figure.axes]
    assert words[0] == "✓ supported"
    assert words[1] == "? inconclusive\n1 of 3 not finite"
    assert len(plots.picture(figure, "claims").png) < 60_000
    with pytest.raises(UserError, match="run the experiment"):
        plots.claims_figure(GRADES[-1:])


# --- what is drawn: the numbers of every mark, against those that were given -------------------------------------

COLOURS = {"baseline": plots.COLOURS["baseline"], "rd": plots.VERMILLION}
# Uneven, so that a mean is neither a median nor an extreme; in the wrong order; and each seed has an update of its own.
LOGGED = {
    "baseline": {3: {5: 4.5, 10: 4.0, 20: 3.0}, 5: {10: 1.0, 15: 0.9, 20: 0.5}, 7: {10: 2.5, 20: 2.0, 30: 1.5}},
    "rd": {3: {5: 8.5, 10: 8.0, 20: 6.0}, 5: {10: 5.0, 15: 5.1, 20: 5.5}, 7: {10: 5.0, 20: 4.0, 30: 3.5}},
}


def logged(seed):
    """A record with the traces of LOGGED as rows of evaluation, among rows of training that are 100 higher."""
    arms = {}
    for arm, traces in LOGGED.items():
        rows = [{"update": u, "kind": "eval", "loss": y} for u, y in traces[seed].items()]
        rows += [{"update": u, "kind": "train", "loss": y + 100} for u, y in traces[seed].items()]
        arms[arm] = {"metrics": {}, "history": rows}
    return {"paper": "p", "preset": "demo", "seed": seed, "settings": {}, "arms": arms}


def drawn(axes, **looks):
    """The lines with these looks, as lists of (x, y)."""
    lines = [line for line in axes.lines if all(line.properties()[name] == look for name, look in looks.items())]
    return [list(zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True)) for line in lines]


def dots(collection):
    return [tuple(map(float, point)) for point in collection.get_offsets()]


def colour_of(collection):
    return matplotlib.colors.to_hex(collection.get_facecolor()[0]).upper()


def outline(collection):
    """The corners of a filled area."""
    return {(float(x), round(float(y), 6)) for x, y in collection.get_paths()[0].vertices}


def near(*points):
    """Points to be compared up to rounding."""
    return [pytest.approx(point, rel=1e-5) for point in points]


MEANS = {"baseline": [(10, 7.5 / 3), (20, 5.5 / 3)], "rd": [(10, 6.0), (20, 15.5 / 3)]}


@pytest.mark.parametrize("arm", LOGGED)
def test_curves_draw_every_seed_and_the_mean_over_the_updates_that_all_have(arm):
    axes = plots.curves([logged(seed) for seed in (3, 5, 7)], "loss", list(LOGGED)).axes[0]
    assert drawn(axes, color=COLOURS[arm], linewidth=0.7) == [list(trace.items()) for trace in LOGGED[arm].values()]
    (mean,) = drawn(axes, color=COLOURS[arm], linewidth=plots.STYLE["lines.linewidth"])
    assert mean == near(*MEANS[arm])
    (named,) = [line for line in axes.lines if line.get_label() == f"{arm} (3 seeds)"]
    assert (named.get_color(), len(named.get_xdata())) == (COLOURS[arm], 2)
    assert len(axes.lines) == 8 and len(axes.collections) == 2


@pytest.mark.parametrize("kind", ["eval", "train"])
def test_curves_band_reaches_from_the_smallest_to_the_largest_seed(kind):
    axes = plots.curves([logged(seed) for seed in (3, 5, 7)], "loss", list(LOGGED), kind).axes[0]
    up = 100 if kind == "train" else 0
    corners = {
        "baseline": {(10, 1.0 + up), (10, 4.0 + up), (20, 0.5 + up), (20, 3.0 + up)},
        "rd": {(10, 5.0 + up), (10, 8.0 + up), (20, 4.0 + up), (20, 6.0 + up)},
    }
    for arm, band in zip(LOGGED, axes.collections, strict=True):
        assert (colour_of(band), outline(band)) == (COLOURS[arm], corners[arm])
    assert axes.get_legend().get_title().get_text() == "mean; band: smallest to largest seed"


def test_curves_band_of_intervals_is_student_t():
    axes = plots.curves([logged(seed) for seed in (3, 5, 7)], "loss", ["rd"], band="interval").axes[0]
    half = 4.302653 * math.sqrt(3.0) / math.sqrt(3)  # t(0.975, 2 degrees) times the standard error of 8, 5, 5
    at_10 = sorted(y for x, y in outline(axes.collections[0]) if x == 10)
    assert at_10 == pytest.approx([6 - half, 6 + half], rel=1e-5)
    assert axes.get_legend().get_title().get_text() == "mean; band: 95 % interval"


def test_curves_of_one_seed_are_its_line_alone():
    axes = plots.curves([logged(7)], "loss", list(LOGGED), labels={"rd": "R-Drop"}).axes[0]
    assert [drawn(axes, color=COLOURS[arm]) for arm in LOGGED] == [[list(LOGGED[arm][7].items())] for arm in LOGGED]
    assert not axes.collections and axes.get_legend().get_title().get_text() == ""
    assert [line.get_label() for line in axes.lines] == ["baseline (1 seed)", "R-Drop (1 seed)"]


SCORES = {"baseline": {1: 1.0, 2: 2.0, 3: 6.0}, "rd": {3: 9.0, 1: 4.0}, "teacher": {1: 7.0, 2: math.nan, 3: 8.0}}


def test_bars_join_the_dots_of_a_seed_from_arm_to_arm():
    axes = plots.bars_with_seeds(SCORES, "BLEU").axes[0]
    seed_1, seed_2, seed_3 = drawn(axes, color="#bbbbbb")
    assert seed_1 == [(0, 1.0), (1, 4.0), (2, 7.0)]
    assert seed_2[0] == (0, 2.0) and [x for x, y in seed_2 if math.isnan(y)] == [1, 2]  # not run, and diverged
    assert seed_3 == [(0, 6.0), (1, 9.0), (2, 8.0)]


def test_bars_draw_each_arm_at_its_place_in_its_colour():
    axes = plots.bars_with_seeds(SCORES, "BLEU", labels={"rd": "R-Drop"}).axes[0]
    expected = {
        "baseline": [(0, 1.0), (0, 2.0), (0, 6.0)],
        "rd": [(1, 9.0), (1, 4.0)],
        "teacher": [(2, 7.0), (2, 8.0)],
    }
    hues = {**COLOURS, "teacher": plots.COLOURS["teacher"]}
    for arm, column in zip(SCORES, axes.collections, strict=True):
        assert (dots(column), colour_of(column)) == (expected[arm], hues[arm])
    shapes = [column.get_paths()[0].vertices.tolist() for column in axes.collections]
    assert shapes[0] != shapes[1] != shapes[2] != shapes[0]  # told apart without colours
    assert [label.get_text() for label in axes.get_xticklabels()] == ["baseline", "R-Drop", "teacher"]
    assert list(axes.get_xticks()) == [0, 1, 2]
    (broken,) = axes.texts
    assert (broken.get_text(), broken.xy[0]) == ("1 not finite", 2)


def test_bars_draw_mean_and_interval_beside_the_dots():
    axes = plots.bars_with_seeds(SCORES, "BLEU", reference=2.5, reference_label="untrained").axes[0]
    mean, interval = drawn(axes, color=COLOURS["baseline"])
    half = 4.302653 * math.sqrt(7.0) / math.sqrt(3)  # the standard error of 1, 2, 6
    assert mean == near((0.14, 3.0), (0.34, 3.0))
    assert interval == near((0.24, 3 - half), (0.24, 3 + half))
    mean, interval = drawn(axes, color=COLOURS["rd"])
    half = 12.706205 * 2.5  # two seeds, one degree of freedom
    assert mean == near((1.14, 6.5), (1.34, 6.5))
    assert interval == near((1.24, 6.5 - half), (1.24, 6.5 + half))
    assert drawn(axes, color=plots.COLOURS["teacher"]) == []  # a mean without the diverged seed would mislead
    (line,) = [line for line in axes.lines if line.get_label() == "untrained"]
    assert list(line.get_ydata()) == [2.5, 2.5]


@pytest.mark.parametrize("log", [False, True])
def test_sweep_draws_every_seed_and_a_line_through_the_means(log):
    points = {10: {1: 3.0, 2: 4.0, 3: 8.0}, 1: [1.0, 2.0], 3: [6.0]}  # not in order
    axes = plots.sweep(points, "alpha", "BLEU", log=log, reference=0.5).axes[0]
    (seeds,) = axes.collections
    assert dots(seeds) == [(1, 1.0), (1, 2.0), (3, 6.0), (10, 3.0), (10, 4.0), (10, 8.0)]
    assert {line.get_label(): list(map(float, line.get_ydata())) for line in axes.lines} == {
        "mean over seeds": [1.5, 6.0, 5.0],
        "reference": [0.5, 0.5],
    }
    assert list(axes.lines[0].get_xdata()) == [1, 3, 10]
    assert axes.get_xscale() == ("log" if log else "linear")
    assert list(axes.get_xticks()) == [1, 3, 10]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one seed", "mean over seeds", "reference"]


TRUTH = {"truth": [0.5, 0.3, 0.2], "teacher": [0.1, 0.2, 0.7]}


def test_distributions_draw_the_probabilities_of_each_word_at_its_name():
    axes = plots.distributions(["der", "die", "das"], TRUTH, labels={"truth": "the truth"}).axes[0]
    names = dict(zip(axes.get_yticks(), (label.get_text() for label in axes.get_yticklabels()), strict=True))
    assert names == {0: "der", 1: "die", 2: "das"} and axes.yaxis_inverted()  # the first word on top
    assert [bars.get_label() for bars in axes.containers] == ["the truth", "teacher"]
    for name, bars in zip(TRUTH, axes.containers, strict=True):
        assert [bar.get_width() for bar in bars] == TRUTH[name] and {bar.get_x() for bar in bars} == {0}
        assert {matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in bars} == {plots.COLOURS[name]}
        middles = [bar.get_y() + bar.get_height() / 2 for bar in bars]
        assert middles == pytest.approx([y + (-0.2 if name == "truth" else 0.2) for y in range(3)])


def test_distributions_on_a_logarithmic_axis_are_marks_without_lines():
    axes = plots.distributions(["der", "die", "das"], TRUTH, log=True).axes[0]
    assert axes.get_xscale() == "log" and "logarithmic" in axes.get_xlabel() and not axes.containers
    for name, line in zip(TRUTH, axes.lines, strict=True):
        assert (line.get_label(), line.get_color(), line.get_linestyle()) == (name, plots.COLOURS[name], "None")
        assert list(line.get_xdata()) == TRUTH[name]
        assert line.get_ydata() == pytest.approx([y + (-0.2 if name == "truth" else 0.2) for y in range(3)])
    assert axes.lines[0].get_marker() != axes.lines[1].get_marker()


def test_heatmap_draws_rows_downward_and_more_as_darker():
    matrix = [[0.1, 0.9, 0.3], [0.6, 0.4, 0.2]]
    axes = plots.heatmap(matrix, ["a", "b", "c"], ["x", "y"], "weight").axes[0]
    mesh = axes.collections[0]
    assert mesh.get_array().reshape(2, 3).tolist() == matrix and axes.yaxis_inverted()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x", "y"]
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written == {(j + 0.5, i + 0.5): f"{matrix[i][j]:.2f}" for i in range(2) for j in range(3)}
    light = mesh.to_rgba([0.1, 0.9])[:, :3].sum(-1)
    assert light[0] > light[1]


# --- the same for claims: where the dots, the interval, the bound and the paper's number stand ---------------------

VALUES = {1: 1.0, 2: 2.0, 3: 6.0}


def claim_drawn(values=VALUES, **options):
    """The axes of one claim, and its grade."""
    result = claims.grade(claims.Claim("R1", "s", lambda r: values, unit="BLEU", **options), RECORDS)
    return plots.claims_figure([result]).axes[0], result


def shaded(axes):
    (ground,) = axes.patches
    return ground.get_x(), ground.get_x() + ground.get_width()


def test_a_claim_is_drawn_with_its_seeds_interval_mean_and_the_papers_number():
    axes, result = claim_drawn(published=2.5, bound=0.5)
    ink = tables.VERDICT_COLOURS[result.verdict][1]
    (seeds,) = axes.collections
    assert (dots(seeds), colour_of(seeds)) == ([(1, 0), (2, 0), (6, 0)], ink.upper())
    half = 4.302653 * math.sqrt(7.0) / math.sqrt(3)
    (interval,) = drawn(axes, linewidth=3.0)
    assert interval == near((3 - half, 0), (3 + half, 0))
    assert [line.get_color() for line in axes.lines[:2]] == [ink, ink]
    assert drawn(axes, marker="|") == [[(3.0, 0)]]
    assert drawn(axes, marker="D") == [[(2.5, 0)]]
    assert drawn(axes, linestyle="--") == [[(0.5, 0), (0.5, 1)]]
    assert axes.texts[0].get_text() == "∅ not testable here" and axes.texts[0].get_color() == ink


def test_a_claim_without_a_number_of_the_paper_has_no_diamond():
    assert drawn(claim_drawn()[0], marker="D") == []


def test_a_seed_that_is_not_finite_leaves_its_dots_and_no_mean():
    axes, _ = claim_drawn({1: 1.0, 2: math.nan, 3: 6.0})
    assert dots(axes.collections[0]) == [(1, 0), (6, 0)]
    assert drawn(axes, marker="|") == drawn(axes, linewidth=3.0) == []


@pytest.mark.parametrize("better", [">", ">=", "<", "<="])
def test_the_claimed_side_is_shaded(better):
    axes, _ = claim_drawn(better=better, bound=1.5)
    low, high = axes.get_xlim()
    assert low < 1.5 < high
    assert shaded(axes) == pytest.approx((1.5, high) if better[0] == ">" else (low, 1.5))


@pytest.mark.parametrize(
    "options", [{"kind": "equivalence", "margin": 0.5}, {"kind": "exact", "tolerance": 0.5, "margin": 9.0}]
)
def test_the_margin_of_an_equivalence_is_shaded_between_its_edges(options):
    axes, _ = claim_drawn(bound=1.5, **options)
    assert sorted(line[0][0] for line in drawn(axes, linestyle="--")) == [1.0, 2.0]
    assert shaded(axes) == (1.0, 2.0)


def test_an_exact_claim_has_one_line():
    axes, _ = claim_drawn({1: 0.0, 2: 0.0}, kind="exact")
    assert drawn(axes, linestyle="--") == [[(0.0, 0), (0.0, 1)]]


def test_claims_stand_in_the_order_given_each_with_its_own_numbers():
    figure = plots.claims_figure(GRADES)
    assert [dots(axes.collections[0]) for axes in figure.axes] == [
        [(1.0, 0), (1.1, 0), (1.3, 0)],
        [(1.0, 0), (1.3, 0)],
        [(0.0, 0)],
        [(0.0, 0)] * 3,
    ]
    inks = [tables.VERDICT_COLOURS[grade.verdict][1].upper() for grade in GRADES[:4]]
    assert [colour_of(axes.collections[0]) for axes in figure.axes] == inks


# --- the scheme of a method --------------------------------------------------------------------------------------


def r_drop_scheme():
    boxes = {
        "x": (1, 0, "one sentence $x$, its translation $y$"),
        "pass 1": (0, 1, "the model\ndropout mask 1", plots.BLUE),
        "pass 2": (2, 1, "the same model\ndropout mask 2", plots.BLUE),
        "P1": (0, 2, "distribution $P_1$", plots.ORANGE),
        "P2": (2, 2, "distribution $P_2$", plots.ORANGE),
        "CE1": (0, 3, "cross-entropy\n$-\\log P_1(y)$", plots.GREEN),
        "KL": (1, 3, "$\\alpha$ times the KL,\nmean of both ways", plots.VERMILLION),
        "CE2": (2, 3, "cross-entropy\n$-\\log P_2(y)$", plots.GREEN),
        "loss": (1, 4, "loss: the sum of the three"),
    }
    down = "x>pass 1 x>pass 2 pass 1>P1 pass 2>P2 P1>CE1 P1>KL P2>KL P2>CE2 CE1>loss KL>loss CE2>loss"
    arrows = [tuple(arrow.split(">")) for arrow in re.findall(r"(?:pass )?\w+>(?:pass )?\w+", down)]
    return plots.scheme(boxes, [*arrows, ("P1", "P2", "must agree", "both")])


def test_a_scheme_is_readable_on_a_phone_and_reproducible():
    figure = r_drop_scheme()
    size = Image.open(io.BytesIO(plots.picture(figure, "how R-Drop works").png)).size
    (axes,) = figure.axes
    points = min(text.get_fontsize() for text in axes.texts if text.get_text())
    assert points * figure.dpi / 72 * 390 / size[0] > 11  # pixels, on a page of 390
    boxes = [text for text in axes.texts if text.get_fontsize() == 11 and text.get_text()]
    assert [text.get_text().split("\n")[0] for text in boxes][1:3] == ["the model", "the same model"]
    assert plots.picture(figure, "a").png == plots.picture(r_drop_scheme(), "a").png


def test_an_arrow_runs_from_edge_to_edge_with_its_label_half_way():
    figure = plots.scheme({"a": (0, 0, "a"), "b": (0, 2, "two\nlines")}, [("a", "b", "down")], width=2.4)
    a, b, arrow, label = figure.axes[0].texts
    one, other = a.get_bbox_patch().get_window_extent(), b.get_bbox_patch().get_window_extent()
    begin, tip = arrow.axes.transData.transform([arrow.xyann, arrow.xy])
    assert begin[1] == pytest.approx(one.y0) and tip[1] == pytest.approx(other.y1)
    assert arrow.axes.transData.transform(label.get_position())[1] == pytest.approx((one.y0 + other.y1) / 2)
    assert begin[0] == tip[0] == pytest.approx(figure.bbox.x1 / 2)


def test_an_arrow_of_both_has_two_heads():
    for heads in ("end", "both"):
        figure = plots.scheme({"a": (0, 0, "a"), "b": (1, 0, "b")}, [("a", "b", "", heads)], width=3, row=1)
        style = figure.axes[0].texts[-1].arrow_patch.get_arrowstyle()
        assert style.arrow == ("<|-|>" if heads == "both" else "-|>")


@pytest.mark.parametrize(
    ("boxes", "arrows", "message"),
    [
        ({"a": (0, 0, "a"), "b": (1, 0, "b")}, [("a", "c")], "no box 'c'. Known: a, b"),
        ({"a": (0, 0, "far too long a text " * 4)}, [], "sticks out of the scheme"),
        ({"a": (0, 0, "a\n" * 9), "b": (1, 0, "b")}, [], "sticks out of the scheme"),
        ({"a": (0, 0, "a text"), "b": (0.1, 0, "another"), "c": (1, 0, "c")}, [], "'another' lies on 'a text'"),
        ({"a": (0, 0, "a"), "b": (0, 0.5, "b")}, [("a", "b", "a label")], "'a label' lies on"),
    ],
)
def test_a_scheme_that_would_be_unreadable_is_refused(boxes, arrows, message):
    with pytest.raises(UserError, match=re.escape(message)):
        plots.scheme(boxes, arrows)


# --- words around the numbers ------------------------------------------------------------------------------------


def test_a_diverged_seed_is_said_in_the_legend():
    figure = plots.curves([*RECORDS, record(4, math.nan)], "loss", ["rd"])
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "rd (4 seeds, 1 not finite)"
    figure = plots.bars_with_seeds({"rd": {1: 1.0, 2: math.nan}}, "BLEU")
    assert [text.get_text() for text in figure.axes[0].texts] == ["1 not finite"]


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(UserError, match="The arm 'dr' was not recorded here; these were: baseline, rd"):
        plots.curves(RECORDS, "loss", ["dr"])
    with pytest.raises(UserError, match="metric 'los'. Did you mean 'loss'"):
        plots.curves(RECORDS, "los", ["rd"])
    with pytest.raises(UserError, match="no band"):
        plots.curves(RECORDS, "loss", ["rd"], band="std")
    with pytest.raises(UserError, match="one a word"):
        plots.distributions(["der"], {"truth": [0.5, 0.5]})


def test_roles_keep_their_colours_and_arms_do_not_share_one():
    chosen = plots.colours(["intra_distillation", "baseline", "r_drop", "teacher", "truth"])
    assert chosen["baseline"] == plots.COLOURS["baseline"] == plots.colours(["baseline"])["baseline"]
    assert chosen["intra_distillation"] == plots.COLOURS["method"]
    assert len(set(chosen.values())) == 5


@pytest.mark.parametrize(
    ("metric", "label"),
    [
        ("test_bleu", "test BLEU (0 to 100)"),
        ("validation_loss", "validation loss (nats)"),
        ("minutes", "time (minutes)"),
        ("peak_memory_mb", "peak memory (MB)"),
        ("sensitivity_gini", "sensitivity gini"),
    ],
)
def test_metric_labels_carry_units(metric, label):
    assert plots.metric_label(metric) == label


def test_style_of_the_reader_is_left_alone_until_asked():
    with matplotlib.rc_context():
        matplotlib.rcParams["axes.grid"] = False
        FIGURES["curves"]()
        assert not matplotlib.rcParams["axes.grid"]
        plots.use_style()
        assert matplotlib.rcParams["axes.grid"] and matplotlib.rcParams["figure.dpi"] == 110


def test_a_figure_needs_alternative_text_and_letters_that_its_font_has():
    with pytest.raises(UserError, match="alternative text"):
        plots.picture(FIGURES["sweep"](), " ")
    figure = plots.distributions(["한국어"], {"truth": [1.0]})
    with pytest.raises(UserError, match="in English"):
        plots.picture(figure, "what it shows")


def test_show_stores_png_and_alternative_text_and_prints_nothing(capsys):
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    plots.show(FIGURES["sweep"](), "outside a notebook")
    assert capsys.readouterr() == ("", "")
    InteractiveShell.instance()
    try:
        with capture_output() as captured:
            plots.show(FIGURES["sweep"](), "BLEU peaks at alpha 5.")
    finally:
        InteractiveShell.clear_instance()
    assert captured.stdout == captured.stderr == ""
    (output,) = captured.outputs
    assert output.data["text/plain"] == "BLEU peaks at alpha 5."
    assert output.metadata["image/png"]["alt"] == "BLEU peaks at alpha 5."
    assert output.data["image/png"].startswith("iVBOR")


@pytest.mark.parametrize("template", ["lab", "classic", "reveal"])
def test_nbconvert_puts_the_alternative_text_on_the_page(template):
    nbconvert = pytest.importorskip("nbconvert")
    data, metadata = plots.picture(FIGURES["bars"](), 'A "bar" chart:\n1 < 2')._repr_mimebundle_()
    output = nbformat.v4.new_output("display_data", data=data, metadata=metadata)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("show()", outputs=[output])])
    nbformat.validate(notebook)
    for node in (notebook, reading.tidy(notebook)):
        page, _ = nbconvert.HTMLExporter(template_name=template).from_notebook_node(node)
        assert page.count('src="data:image/png;base64,') == 1
        assert 'alt="A &quot;bar&quot; chart: 1 &lt; 2"' in page or "alt='A \"bar\" chart: 1 &lt; 2'" in page


def test_a_figure_is_committed_once_with_its_text():
    data, metadata = plots.picture(FIGURES["bars"](), "bars")._repr_mimebundle_()
    output = nbformat.v4.new_output("display_data", data=dict(data), metadata=metadata)
    bare = nbformat.v4.new_output("display_data", data={"image/png": "iVBORw0KGgo="})
    node = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("show()", outputs=[output, bare])])
    kept, untouched = reading.tidy(node).cells[0].outputs
    assert kept.data == {"text/html": data["text/html"], "text/plain": "bars"} and not kept.metadata
    assert data["image/png"] in kept.data["text/html"]
    assert untouched.data == {"image/png": "iVBORw0KGgo="}


def test_pyplot_figures_are_closed():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    figure, axes = pyplot.subplots()
    axes.plot([1, 2])
    plots.show(figure, "a line")
    assert not pyplot.fignum_exists(figure.number)
