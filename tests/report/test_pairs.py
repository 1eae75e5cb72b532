"""What a run says of rows beside others than the student alone."""

from __future__ import annotations

from pathlib import Path

from helpers.engine import run_recipe, tiny_recipe
from understudy.report import pair_sentences, read_results

ROWS = ["kd", "kd+dot", "dist", "kd+dot_weights"]


def test_each_row_is_held_to_itself_without_its_update_and_the_best_to_the_next(tmp_path: Path) -> None:
    recipe = tiny_recipe({"rows": ROWS, "epochs": 1})
    results = read_results(run_recipe(recipe, tmp_path / "run").path)
    pairs = [(one.row, one.against) for one in results.comparisons]
    assert pairs[:2] == [("kd+dot", "kd"), ("kd+dot_weights", "kd")]
    order = sorted(results.rows, key=lambda row: -results.score(row).mean)
    best_two = (order[0].name, order[1].name)
    assert best_two in pairs or best_two[::-1] in pairs
    assert len(pairs) == len({frozenset(pair) for pair in pairs})
    for comparison in results.comparisons:
        one, other = (results.row(name) for name in (comparison.row, comparison.against))
        assert one is not None
        assert other is not None
        assert abs(comparison.difference - (results.score(one).mean - results.score(other).mean)) < 1e-9
        assert (comparison.num_images, comparison.num_seeds) == (100, 2)
    sentences = pair_sentences(results)
    assert len(sentences) == len(pairs)
    assert sentences[0].startswith(("kd+dot is ", "kd+dot's difference of "))
    assert " kd " in sentences[0]


def test_the_page_has_these_sentences(tmp_path: Path) -> None:
    run = run_recipe(tiny_recipe({"rows": ["alone", "kd", "kd+dot"], "epochs": 1, "seeds": [0]}), tmp_path / "run")
    page = run.report_file.read_text(encoding="utf-8").replace("&#39;", "'")
    found = pair_sentences(read_results(run.path))
    assert found
    assert all(sentence in page for sentence in found)
