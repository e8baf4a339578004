"""Figures: which there are, what they show, and that nothing in them overlaps or leaves the paper."""

import itertools
import math
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from dien import figures, plots
from dien.looks import COLUMN, INK, looks
from dien.reporting.comparison import Comparison, compare
from dien.runs.read import read

MakeRun = Callable[..., Path]


@pytest.fixture
def comparison(make_run: MakeRun, tmp_path: Path) -> Comparison:
    """Eleven variants with three seeds: long names, three weights of the auxiliary loss."""
    for seed in range(3):
        make_run(f"base{seed}", model="base", alpha=0.0, seed=seed, auc=0.6 + seed / 100, speed=9000.0)
        make_run(f"din{seed}", model="din", alpha=0.0, seed=seed, auc=0.66 + seed / 100, speed=8000.0)
        for model, alpha in itertools.product(("dien-augru", "dien-augru_code", "dien-agru"), (0.0, 0.3, 3.0)):
            auc = 0.68 + 0.01 * math.sqrt(alpha) + seed / 200
            make_run(f"{model}{alpha}{seed}", model=model, alpha=alpha, seed=seed, auc=auc, speed=4000.0 - 10 * seed)
    return compare(read(tmp_path))[0]


def drawn_texts(figure: Figure) -> list[tuple[str, object]]:
    """Every text that is seen, with the box it takes."""
    FigureCanvasAgg(figure).draw()
    texts: list[Text] = [text for legend in figure.legends for text in legend.get_texts()]
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        texts += [axis.label, *(tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)]
    return [(text.get_text(), text.get_window_extent()) for text in texts if text.get_visible() and text.get_text()]


@pytest.mark.parametrize("name", ["auc", "losses", "alpha", "cost"])
def test_no_text_overlaps_or_leaves_the_column(comparison: Comparison, name: str) -> None:
    figure = plots.figures_of(comparison)[name]
    assert figure.get_figwidth() == COLUMN
    texts = drawn_texts(figure)
    for (one, box), (other, second) in itertools.combinations(texts, 2):
        width = min(box.x1, second.x1) - max(box.x0, second.x0)
        height = min(box.y1, second.y1) - max(box.y0, second.y0)
        assert width <= 1 or height <= 1, (one, other)
    for text, box in texts:
        assert box.x1 <= figure.bbox.x1 + 1, text
        assert box.y1 <= figure.bbox.y1 + 1, text
    labels = {axis.get_label_text() for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)}
    expected = {
        "auc": {"test AUC: mean, 95 % interval, seeds", ""},
        "losses": {"training step (batches)", "click loss (nats)", "auxiliary loss (nats)", ""},
        "alpha": {"alpha, weight of the auxiliary loss", "test AUC"},
        "cost": {"training speed (thousand samples/s)", "test AUC"},
    }
    assert labels == expected[name]


def test_means_and_intervals_are_where_they_belong(comparison: Comparison) -> None:
    axes = plots.figures_of(comparison)["auc"].axes[0]
    names = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
    assert names == [row.variant.name + " (baseline)" * (row.variant.name == "base") for row in comparison.rows]
    means = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert means == pytest.approx([row.spreads["test/auc"].mean for row in comparison.rows])
    ends = [bars.get_segments()[0][:, 0] for bars in axes.collections]
    for row, (low, high) in zip(comparison.rows, ends, strict=True):
        assert (low, high) == pytest.approx((row.spreads["test/auc"].low, row.spreads["test/auc"].high))


def test_a_line_for_each_model_against_alpha(comparison: Comparison) -> None:
    axes = plots.figures_of(comparison)["alpha"].axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert sorted(labels) == ["dien-agru", "dien-augru", "dien-augru_code"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.3", "3"]
    assert all(list(container.lines[0].get_xdata()) == [0.0, 0.3, 3.0] for container in axes.containers)


def test_learning_curves_are_means_over_seeds(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in range(3):
        make_run(str(seed), seed=seed)
    axes = plots.learning_curves(compare(read(tmp_path))[0]).axes
    steps = list(range(9, 300, 10))
    line = axes[0].lines[0]
    assert list(line.get_xdata()) == steps
    assert list(line.get_ydata()) == pytest.approx([0.69 - 0.0004 * step + 0.001 for step in steps])


def test_figures_without_anything_to_show_are_not_drawn(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run("a", alpha=0.0)
    (folder / "metrics.csv").unlink()
    (folder / "metrics.json").write_text('{"test/auc": 0.7}')
    assert list(plots.figures_of(compare(read(tmp_path))[0])) == ["auc"]


def test_files_are_the_same_every_time_and_have_300_dots_an_inch(comparison: Comparison, tmp_path: Path) -> None:
    contents = []
    for folder in (tmp_path / "one", tmp_path / "other"):
        paths = plots.save(plots.metric_against_alpha(comparison), folder, "alpha")
        contents.append([path.read_bytes() for path in paths])
        with Image.open(paths[0]) as image:
            assert image.width == 300 * COLUMN
    assert contents[0] == contents[1]


def test_inline_svg_has_ids_of_its_own_and_the_colour_of_the_text_around(comparison: Comparison) -> None:
    texts = [plots.as_inline_svg(plots.metric_against_alpha(comparison), name) for name in ("a", "b")]
    ids = []
    for text in texts:
        tree = ET.fromstring(text)
        ids.append({element.get("id") for element in tree.iter() if element.get("id")})
        used = {v[1:] for e in tree.iter() for k, v in e.attrib.items() if k.endswith("href") and v.startswith("#")}
        assert used <= ids[-1]
        assert "currentColor" in text
        assert INK not in text
    assert not ids[0] & ids[1]


def test_no_two_series_look_alike_not_even_in_grey() -> None:
    first = list(itertools.islice(looks(), 35))
    assert len({(colour, line) for colour, line, _ in first}) == 35
    assert len({(line, marker) for _, line, marker in first}) == 35
    assert len({line for _, line, _ in first[:5]}) == 5


def test_the_first_learning_curves_differ_in_line_and_marker(comparison: Comparison) -> None:
    lines = plots.learning_curves(comparison).axes[0].lines[:5]
    assert len({line.get_linestyle() for line in lines[:4]}) == 4
    assert len({line.get_marker() for line in lines}) == 5


def test_an_attention_map_of_a_long_history_fits_a_page() -> None:
    attention = np.random.default_rng(0).dirichlet(np.ones(100), 5).astype(np.float32)
    steps = [f"a long title of a book, number {step}" for step in range(99)] + ["the newest"]
    figure = figures.attention_map(attention, steps, [f"c{c} {'x' * 40}" for c in range(5)])
    assert figure.get_figwidth() == 7.0  # so a page prints it in the size that it is drawn in
    texts = drawn_texts(figure)
    for (one, box), (other, second) in itertools.combinations(texts, 2):
        width = min(box.x1, second.x1) - max(box.x0, second.x0)
        height = min(box.y1, second.y1) - max(box.y0, second.y0)
        assert width <= 1 or height <= 1, (one, other)
    axes = figure.axes[0]
    assert all(label.get_fontsize() >= 6 for label in (*axes.get_xticklabels(), *axes.get_yticklabels()))
    assert axes.get_xticklabels()[-1].get_text() == "the newest"
    assert axes.get_position().width > 0.4
    assert all(
        box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1 for _, box in texts
    )


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_the_figures_of_a_run_have_whole_epochs_and_no_text_outside(tmp_path: Path, epochs: int) -> None:
    rows = ["epoch,step,train/loss,train/ctr_loss,train/gradient_norm,val/auc,val/attention_entropy,val/update_gate"]
    for epoch in range(epochs):
        rows += [f"{epoch},{10 * epoch + 5},0.7,0.7,0.1,,,", f"{epoch},{10 * epoch + 9},,,,0.6,0.9,0.1"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    drawn = figures.of_run(tmp_path / "metrics.csv")
    assert list(drawn) == ["learning_curves", "selection"]
    for figure in drawn.values():
        for text, box in drawn_texts(figure):
            assert box.y1 <= figure.bbox.y1, text
        right = figure.axes[1]
        low, high = right.get_xlim()
        assert [tick for tick in right.get_xticks() if low <= tick <= high] == list(range(1, epochs + 1))
        assert right.get_legend().get_window_extent().y0 >= right.get_window_extent().y1  # it covers no point


def test_a_histogram_of_equal_values() -> None:
    axes = figures.distributions({"gaps": np.ones(5)}, "gaps", logarithmic=True).axes[0]
    values, edges, _ = axes.patches[0].get_data()
    assert values.sum() == pytest.approx(1)
    assert np.all(np.diff(edges) > 0)
