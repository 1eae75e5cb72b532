"""The figures, drawn and measured."""

import itertools
import warnings
from contextlib import nullcontext

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from helpers.run_writer import ACCURACY, write_run, write_sweep
from understudy.report import all_plots, read_run
from understudy.report.figures.accuracy import accuracy_plot
from understudy.report.figures.classes import class_plot
from understudy.report.figures.curves import curves_plot
from understudy.report.figures.differences import difference_plot
from understudy.report.figures.outcomes import outcome_plot
from understudy.report.figures.style import looks, narrow, shortened
from understudy.report.figures.sweep import setting_plot

NAMES = ["cost", "curves", "accuracy", "differences", "classes", "confusion", "calibration", "outcomes"]


@pytest.fixture(scope="module")
def run(full_run):
    return read_run(full_run)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    classes = [f"a class with quite a long name, number {i}" for i in range(10)]
    rows = [*ACCURACY, "crd+kd+dot", "reviewkd+kd+dot with a rather long name", "at+kd", "vid+kd"]
    return read_run(write_run(tmp_path_factory.mktemp("crowded"), rows=rows, classes=classes))


def test_a_whole_run_has_every_figure_with_a_sentence_on_how_to_read_it(run):
    plots = all_plots(run)

    assert [plot.name for plot in plots] == NAMES
    assert all(plot.reading.endswith(".") for plot in plots)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    varied = [{"update.delta": delta} for delta in (0.09, -0.09, 0.0, 0.05)]
    return read_run(write_sweep(tmp_path_factory.mktemp("runs") / "sweep", varied, published=(90.5, 80.1)))


@pytest.mark.parametrize("width", [nullcontext, narrow], ids=["wide", "narrow"])
@pytest.mark.parametrize("fixture", ["run", "crowded", "sweep"])
def test_no_two_labels_overlap_and_none_leaves_the_figure(fixture, width, request):
    with width():
        plots = all_plots(request.getfixturevalue(fixture))
    for plot in plots:
        renderer = FigureCanvasAgg(plot.figure).get_renderer()
        plot.figure.draw(renderer)
        boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in drawn_texts(plot.figure)]
        page = plot.figure.bbox
        for text, box in boxes:
            assert box.x0 >= 0, (plot.name, text)
            assert box.x1 <= page.x1 + 1, (plot.name, text)
        for (first, a), (second, b) in itertools.combinations(boxes, 2):
            overlap = min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
            assert not overlap, (plot.name, first, second)


def drawn_texts(figure):
    """All texts but the tick labels outside the limits, which matplotlib keeps and never draws."""
    hidden = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not low <= tick.get_loc() <= high:
                hidden |= {tick.label1, tick.label2}
    texts = figure.findobj(lambda artist: isinstance(artist, Text) and artist not in hidden)
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def test_a_row_has_one_colour_in_all_figures(run):
    color = looks(["alone", "kd", "kd+dot"])["kd+dot"].color

    for make in (curves_plot, accuracy_plot, difference_plot, class_plot):
        plot = make(run)
        assert plot is not None
        assert color.lower() in plot.svg().lower()


def test_a_method_under_another_update_has_its_colour_dashed_whatever_the_update() -> None:
    found = looks(["alone", "deepkd", "deepkd+deepkd", "kd", "kd+dot", "kd+dot_weights", "kd+crd"])
    for base, other in (("deepkd", "deepkd+deepkd"), ("kd", "kd+dot")):
        assert (found[other].color, found[other].dash) == (found[base].color, "dashed")
    assert found["kd+dot_weights"].dash == "dashed"
    assert found["kd+crd"].dash == "solid"
    assert len({(look.color, look.dash) for look in found.values()}) == len(found)


def test_rows_beyond_the_palette_differ_by_dash_and_marker():
    found = looks([f"row {i}" for i in range(20)])

    assert len({(look.color, look.dash) for look in found.values()}) == 21  # and the student alone


def test_long_names_that_differ_at_their_ends_stay_apart():
    first, second = (shortened(f"a class with quite a long name, number {i}") for i in (1, 2))

    assert first != second
    assert max(len(first), len(second)) <= 26
    assert shortened("two\nlines") == "two lines"


def test_the_same_figure_gives_the_same_svg(run, full_run):
    for first, second in zip(all_plots(run), all_plots(read_run(full_run)), strict=True):
        assert first.svg() == second.svg()


def test_names_with_markup_or_mathematics_are_drawn_as_they_are(tmp_path):
    classes = ["<script>alert(1)</script>", "$\\frac", "$x$", "a & b", *"456789"]
    plot = class_plot(read_run(write_run(tmp_path, classes=classes)))

    assert plot is not None
    svg = plot.svg()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in svg
    assert "<script>" not in svg
    assert "$\\frac" in svg
    assert "a &amp; b" in svg


def test_names_in_a_script_that_this_machine_has_no_font_for_stay_text_and_warn_nobody(tmp_path):
    run = read_run(write_run(tmp_path, classes=["猫", *"123456789"]))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svgs = [plot.svg() for plot in all_plots(run)]

    assert any("猫" in svg for svg in svgs)


def test_a_row_that_cannot_be_told_from_alone_is_drawn_hollow(tmp_path):
    run = read_run(write_run(tmp_path, accuracy={"alone": 0.9, "kd": 0.9, "kd+dot": 0.97}))
    plot = difference_plot(run)

    assert plot is not None
    faces = [line.get_markerfacecolor() for line in plot.figure.axes[0].lines if line.get_marker() in ("o", "s")]
    assert faces == ["white", looks(["kd", "kd+dot"])["kd+dot"].color]


def test_losses_over_many_decades_get_a_logarithmic_axis_and_accuracy_never(tmp_path):
    plot = curves_plot(read_run(write_run(tmp_path, num_epochs=20)))

    assert plot is not None
    assert [axes.get_yscale() for axes in plot.figure.axes] == ["log", "log", "linear"]


def test_accuracy_axes_stay_within_a_hundred_percent(run):
    for make in (accuracy_plot, class_plot):
        plot = make(run)
        assert plot is not None
        assert plot.figure.axes[0].get_xlim()[1] <= 101


def test_more_classes_than_fit_are_cut_to_the_widest_gaps_and_that_is_said(tmp_path):
    plot = class_plot(read_run(write_run(tmp_path, classes=[f"class {i}" for i in range(10)])))
    assert plot is not None
    assert "of 10 classes" not in plot.reading

    run = read_run(write_run(tmp_path / "many", classes=[str(i) for i in range(60)], num_classes=60))
    plot = class_plot(run)

    assert plot is not None
    assert "(20 of 60 classes, those with the widest gaps)" in plot.reading
    assert len(plot.figure.axes[0].get_yticks()) == 20


def test_a_run_without_a_teacher_has_no_figures_about_one(tmp_path):
    run = read_run(write_run(tmp_path, rows=["alone"], has_teacher=False))

    assert [plot.name for plot in all_plots(run)] == ["curves", "accuracy", "confusion", "calibration"]
    assert class_plot(run) is None
    assert outcome_plot(run) is None


def test_one_row_under_one_seed_is_no_accuracy_figure(tmp_path):
    assert accuracy_plot(read_run(write_run(tmp_path, rows=["alone"], seeds=[0], has_teacher=False))) is None


def test_one_epoch_is_drawn_as_points(tmp_path):
    plot = curves_plot(read_run(write_run(tmp_path, num_epochs=1)))

    assert plot is not None
    assert all(line.get_marker() not in ("None", None) for line in plot.figure.axes[0].lines)


def panels(plot):
    return {axes.get_title(loc="left"): axes for axes in plot.figure.axes}


def test_a_sweep_is_drawn_against_its_setting_with_published_points_beside(sweep):
    plot = setting_plot(sweep)
    axes = panels(plot)

    assert list(axes) == ["top-1 (validation), %", "task loss (train), nats", "KL to teacher (T=4, train), nats"]
    means = {row.varied["update.delta"]: row.summary.scores["top1"].mean for row in sweep.results.rows if row.varied}
    line = axes["top-1 (validation), %"].lines[0]
    assert list(line.get_xdata()) == [-0.09, 0.0, 0.05, 0.09]
    assert list(line.get_ydata()) == pytest.approx([means[x] for x in line.get_xdata()])
    diamonds = [tuple(map(float, (*dot.get_xdata(), *dot.get_ydata()))) for dot in axes["top-1 (validation), %"].lines
                if dot.get_marker() == "D"]  # fmt: skip
    assert diamonds == [(0.09, 90.5), (-0.09, 80.1)]
    assert "update.delta" in plot.title


def test_words_are_set_side_by_side_and_two_settings_make_a_line_for_each_value_of_the_other(tmp_path):
    kinds = [{"method.normalisation": kind} for kind in ("none", "l2", "batch")]
    axes = panels(setting_plot(read_run(write_sweep(tmp_path / "words", kinds))))["top-1 (validation), %"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["none", "l2", "batch"]

    both = [{"update.delta": delta, "task_weight": weight} for delta in (0.01, 0.02, 0.03) for weight in (0.1, 0.5)]
    axes = panels(setting_plot(read_run(write_sweep(tmp_path / "both", both, seeds=(0,)))))["top-1 (validation), %"]
    assert [list(line.get_xdata()) for line in axes.lines[:2]] == [[0.01, 0.02, 0.03]] * 2


@pytest.mark.parametrize("varied", [[], [{"update.delta": 0.05}]], ids=["no sweep", "one value"])
def test_a_run_that_varies_nothing_has_no_figure_of_a_setting(tmp_path, varied):
    assert setting_plot(read_run(write_sweep(tmp_path / "run", varied))) is None
