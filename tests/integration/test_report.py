"""`dien-report` from real runs to a table, figures and a page, and its mistakes; the page in a real browser."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dien import runs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MakeRun = Callable[..., Path]


@pytest.fixture
def sweep(make_run: MakeRun, tmp_path: Path) -> Path:
    """Three models with two seeds, one of them with a name that a page must not take for markup; a failed run."""
    for seed in (0, 1):
        make_run(f"{seed}_base", model="base", alpha=0.0, seed=seed, auc=0.6 + seed / 100)
        make_run(f"{seed}_dien", seed=seed, auc=0.7 + seed / 200)
        make_run(f"{seed}_odd", model="<script>alert(1)</script>", seed=seed, auc=0.65)
    make_run("9_late #1", seed=9, auc=None, status={"status": "failed", "error": "no space left on <device>."})
    return tmp_path / "runs"


def test_real_runs_become_a_report(dien_train, dien_report, small, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    models = ["-m", *small, "model=dien,base", "trainer.max_epochs=1", "hydra.sweep.dir=sweep"]
    assert dien_train(*models, "logger=wandb") == 0
    frame = runs.load("sweep")
    assert frame["status"].to_list() == ["finished"] * 2
    assert frame["problem"].to_list() == [None] * 2
    capsys.readouterr()

    assert dien_report("sweep", "--csv", "table.csv", "--markdown", "table.md") == 0
    printed = capsys.readouterr().out
    (path,) = Path("sweep").glob("*_dien*/metrics.json")
    auc = json.loads(path.read_text())["test/auc"]
    (line,) = (line for line in printed.splitlines() if line.startswith("dien-augru"))
    assert line.split()[:3] == ["dien-augru", "1", f"{auc:.4f}"]
    assert f"| dien-augru | 1 | {auc:.4f} |" in Path("table.md").read_text()
    assert repr(auc) in Path("table.csv").read_text()

    # the same runs as W&B wrote them down
    logs = runs.load(*Path("sweep").glob("*/wandb"))
    assert logs["origin"].to_list() == ["wandb"] * 2
    assert logs["status"].to_list() == ["finished"] * 2
    assert logs["test/auc"].to_list() == pytest.approx(frame["test/auc"].to_list())
    of_folders, of_logs = (runs.curves(*paths) for paths in (["sweep"], Path("sweep").glob("*/wandb")))
    order = ["name", "step", "epoch", "value"]
    assert of_logs.select(order).sort(order).rows() == of_folders.select(order).sort(order).rows()

    one, other = sorted(Path("sweep").glob("*_seed0"))
    assert dien_report("--diff", one, other) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^model\.name +dien-augru +base$", printed, re.MULTILINE)
    assert dien_report("--bootstrap", one, other) == 0
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("test AUC"))
    first, second = (json.loads((folder / "metrics.json").read_text())["test/auc"] for folder in (one, other))
    assert line.split()[2:5] == [f"{first:.4f}", f"{second:.4f}", f"{first - second:+.4f}"]
    assert "test users resampled 1,000 times" in printed


def test_all_outputs_at_once(dien_report, sweep, capsys, tmp_path) -> None:
    outputs = ["--markdown", "-", "--latex", "out/t.tex", "--csv", "out/t.csv", "--html", "out/t.html"]
    assert dien_report(sweep, *outputs, "--figures", "figures") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("| variant | runs |")
    assert "9\\_late #1: it failed: no space left on \\<device\\>" in printed.out
    assert printed.err == ""
    names = [f"{name}.{kind}" for name in ("alpha", "auc", "cost", "losses") for kind in ("png", "svg")]
    assert sorted(path.name for path in Path("figures").iterdir()) == [name for name in names if "alpha" not in name]
    assert sorted(path.name for path in Path("out").iterdir()) == ["t.csv", "t.html", "t.tex"]  # nothing half-written


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["name run folders"]),
        (["empty"], ["no runs in empty"]),
        (["nowhere"], ["nowhere is missing"]),
        (["runs", "--baseline", "bass"], ["--baseline bass", "base; dien-augru"]),
        (["runs", "--metrics", "test/auk"], ["--metrics test/auk", "test/auc"]),
        (["runs", "--by", "model.nam"], ["--by model.nam", "model.name"]),
        (["runs", "--html", "file/page.html"], ["file/page.html cannot be written"]),
        (["runs", "--figures", "file"], ["file cannot be written"]),
        (["runs", "--csv", "-", "--markdown", "-"], ["cannot share"]),
        (["--diff", "runs", "runs"], ["runs holds 7 runs"]),
        (["--diff", "runs/0_base", "runs/1_base", "--csv", "x.csv"], ["--csv takes runs"]),
        (["--bootstrap", "runs/0_base", "nowhere"], ["nowhere is missing"]),
    ],
)
def test_mistakes_are_one_sentence(dien_report, sweep, capsys, arguments, names) -> None:
    Path("empty").mkdir()
    Path("file").touch()
    before = sorted(Path().rglob("*"))
    assert dien_report(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("dien-report: ")
    assert error.count("\n") == 1
    for name in names:
        assert name in error
    assert sorted(Path().rglob("*")) == before


def test_the_page_escapes_values_and_links_to_the_runs(dien_report, sweep) -> None:
    assert dien_report(sweep, "--html", "pages/report.html") == 0
    text = Path("pages/report.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "no space left on &lt;device&gt;" in text
    assert 'href="../runs/9_late%20%231/"' in text
    for address in re.findall(r"https?://[^\"'\s<>]+", text):
        assert address.startswith("http://www.w3.org/"), address  # names of XML, which nobody fetches
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_without_a_finished_run_the_page_tells_what_became_of_them(dien_report, make_run, capsys) -> None:
    make_run("a", auc=None, status={"status": "failed", "error": "no space left."})
    make_run("b", auc=None, status={"status": "running", "process": 12, "host": "node7"})
    assert dien_report("runs", "--html", "page.html", "--csv", "table.csv", "--figures", "figures") == 1
    printed = capsys.readouterr()
    assert "runs/a: it failed: no space left" in printed.out
    assert "runs/b: it has not finished: process 12 on node7 ended without a word" in printed.out
    assert printed.err == "dien-report: none of the 2 runs there has finished: nothing can be compared.\n"
    text = Path("page.html").read_text()
    assert text.count("no space left") == 2  # in the notes and in the table of runs
    assert "None of these runs has finished" in text


def test_the_page_names_variants_once_for_keys_that_go_together(dien_report, sweep, make_run) -> None:
    for seed in (0, 1):
        make_run(f"{seed}_deep", model="deep", seed=seed, config={"model.head.hidden": [1], "optimizer.lr": 0.1})
    assert dien_report(sweep, "--html", "report.html", "--by", "model.name") == 0
    text = Path("report.html").read_text()
    differences = text[text.index('id="differences"') : text.index("What all runs have in common")]
    assert "2 keys together" in differences
    assert differences.count("the other 3") >= 1
    assert re.search(r"model.head.hidden</td><td class=.long.><span class=.soft.>A</span> \[200, 80\]", differences)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine; .ci/run installs it")
def test_the_page_in_a_browser(dien_report, sweep, tmp_path) -> None:
    from playwright.sync_api import sync_playwright

    assert dien_report(sweep, "--html", "report.html", "--diff", sweep / "0_base", sweep / "0_dien") == 0
    page_address = (tmp_path / "report.html").as_uri()
    heard: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, scheme, medium in ((1280, "light", "screen"), (390, "dark", "screen"), (794, "light", "print")):
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page = context.new_page()
            page.on("console", lambda message: heard.append(message.text))
            page.on("pageerror", lambda error: heard.append(str(error)))
            page.on("request", lambda request: heard.append(request.url) if request.url != page_address else None)
            page.emulate_media(media=medium)
            page.goto(page_address, wait_until="networkidle")
            assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing runs out of a phone
            assert page.locator("#results table tbody tr").count() == 3
            assert page.locator("figure svg").count() == 3
            for figure in page.locator("figure svg").all():
                box = figure.bounding_box()
                assert box is not None
                assert box["width"] > 250
            paper, ink = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
            dark = [sum(map(int, re.findall(r"\d+", colour)[:3])) < 300 for colour in (paper, ink)]
            assert dark == ([True, False] if scheme == "dark" else [False, True])
            drawn = page.locator("figure svg g[style*='fill']").first.evaluate("e => getComputedStyle(e).color")
            assert drawn == ink  # text in figures follows the page
            if width == 390:  # every cell of every table can be read without pushing the page aside
                edges = "cells => cells.map(cell => cell.getBoundingClientRect()).map(box => [box.left, box.right])"
                for left, right in page.locator("#results td, #differences td, #runs td").evaluate_all(edges):
                    assert left >= 0
                    assert right <= width
                rows = page.locator("#runs tbody tr").evaluate_all("rows => rows.map(row => row.offsetHeight)")
                assert max(rows) < 150
            page.screenshot(path=f"{width}.png", full_page=True)
            context.close()
        browser.close()
    assert heard == []
