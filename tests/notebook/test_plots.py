"""Figures: produced, labelled, small, the same bytes twice, and with alternative text in their metadata."""

import io
import math
import warnings

import matplotlib
import numpy as np
import pytest
from PIL import Image

from kdutils.core.errors import UserError
from kdutils.notebook import plots
from kdutils.study import claims, measures


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


def test_claims_figure_has_a_row_for_each_claim_with_a_number():
    figure = plots.claims_figure(GRADES)
    assert [axes.get_yticklabels()[0].get_text() for axes in figure.axes] == [f"R{i}  BLEU" for i in (1, 2, 3, 4)]
    words = [axes.texts[0].get_text() for axes in figure.axes]
    assert words[0] == "✓ supported"
    assert words[1] == "? inconclusive\n1 of 3 not finite"
    assert len(plots.picture(figure, "claims").png) < 60_000
    with pytest.raises(UserError, match="run the experiment"):
        plots.claims_figure(GRADES[-1:])


def test_the_middle_line_is_the_mean_over_seeds():
    axes = plots.curves(RECORDS, "loss", ["rd"]).axes[0]
    mean = max(axes.lines, key=lambda line: line.get_linewidth())
    curves = [measures.history(r, "rd", "loss")[1] for r in RECORDS]
    assert np.allclose(mean.get_ydata(), np.mean(curves, axis=0))
    assert list(mean.get_xdata()) == [20, 40, 60, 80, 100]


def test_a_diverged_seed_is_said_in_the_legend():
    figure = plots.curves([*RECORDS, record(4, math.nan)], "loss", ["rd"])
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "rd (4 seeds, 1 not finite)"
    figure = plots.bars_with_seeds({"rd": {1: 1.0, 2: math.nan}}, "BLEU")
    assert [text.get_text() for text in figure.axes[0].texts] == ["1 not finite"]


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(UserError, match="no arm 'dr'. Known: baseline, rd"):
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


def test_nbconvert_puts_the_alternative_text_on_the_page():
    nbformat, nbconvert = pytest.importorskip("nbformat"), pytest.importorskip("nbconvert")
    data, metadata = plots.picture(FIGURES["bars"](), 'A "bar" chart')._repr_mimebundle_()
    output = nbformat.v4.new_output("display_data", data=data, metadata=metadata)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("show()", outputs=[output])])
    nbformat.validate(notebook)
    html, _ = nbconvert.HTMLExporter(template_name="classic").from_notebook_node(notebook)
    assert 'alt="A &quot;bar&quot; chart"' in html or "alt='A \"bar\" chart'" in html


def test_pyplot_figures_are_closed():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    figure, axes = pyplot.subplots()
    axes.plot([1, 2])
    plots.show(figure, "a line")
    assert not pyplot.fignum_exists(figure.number)
