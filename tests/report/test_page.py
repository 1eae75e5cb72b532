"""The page: self-contained, escaped, complete, and the same every time."""

import json
import re
from html.parser import HTMLParser

import pytest

from helpers.run_writer import results_of, write_run, write_sweep
from understudy.report import headline, read_run, write_report
from understudy.report.images import mistakes, unlearnt
from understudy.utils.errors import UserError

OPTIONAL = ["metrics.jsonl", "timing.jsonl", "environment.json", "recipe.yaml", "predictions.safetensors"]
VOID = {"meta", "br", "img"}


class Page(HTMLParser):
    """Tags in order, text, and whether every tag is closed."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.open, self.texts, self.addresses = [], [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def source(full_run, tmp_path_factory):
    return write_report(full_run, tmp_path_factory.mktemp("page") / "report.html").read_text()


def test_the_headline_comes_first_then_table_figures_and_how_to_do_it_again(source, full_run):
    parts = [headline(read_run(full_run).results).replace("'", "&#39;"), 'id="table"', 'id="curves"', 'id="again"']

    places = [source.index(part) for part in parts]

    assert places == sorted(places)


def test_every_tag_is_closed_and_no_id_occurs_twice(source):
    assert Page(source).open == []
    ids = re.findall(r'<[^>]* id="([^"]+)"', source)
    assert len(ids) == len(set(ids))


def test_the_page_loads_nothing_from_elsewhere(source):
    page = Page(source)

    assert all(address.startswith(("#", "data:image/")) for address in page.addresses)
    assert not {"link", "iframe", "object", "embed"} & set(page.tags)
    assert "@import" not in source
    assert not re.search(r"url\((?!#)", source)


def test_the_page_tells_everything_needed_to_do_it_again(source):
    text = Page(source).text

    for part in ("understudy demo", "abc1234", "2.15.0", "two cores", "seeds 0, 1, 2", "crop (pad 1)", "name: digits"):
        assert part in text
    assert "1 min 1 s" in text


def test_the_page_is_the_same_every_time(full_run, tmp_path):
    first = write_report(full_run, tmp_path / "a.html").read_bytes()

    assert write_report(full_run, tmp_path / "b.html").read_bytes() == first


def test_strings_from_a_run_cannot_become_markup(tmp_path):
    evil = '<script>alert("x")</script>'
    run = write_run(tmp_path, classes=[evil, *"123456789"], rows=["alone", evil], accuracy={evil: 0.95}, title=evil)
    data = results_of(run)
    data["data"]["notes"] = [evil]
    data["data"]["val_origin"] = evil
    data["rows"][1]["update"] = {"name": evil}
    (run / "results.json").write_text(json.dumps(data))
    (run / "recipe.yaml").write_text(f"# </pre>{evil}\n")
    (run / "environment.json").write_text(json.dumps({"command": evil, evil: {"deep": [evil]}}))

    page = Page(write_report(run).read_text())

    assert page.tags.count("script") == 1
    assert page.text.count('alert("x")') >= 10
    assert page.open == []


def test_the_page_goes_into_the_run_folder_unless_told_otherwise(tmp_path):
    run = write_run(tmp_path / "run")

    assert write_report(run) == run / "report.html"
    assert write_report(run, tmp_path) == tmp_path / "report.html"
    assert write_report(run, tmp_path / "new" / "page.html").exists()


def test_a_run_of_one_row_without_teacher_and_other_files_still_has_a_page_that_says_what_is_missing(tmp_path):
    run = write_run(tmp_path, rows=["kd"], seeds=[0], has_teacher=False)
    for name in OPTIONAL:
        (run / name).unlink()

    text = Page(write_report(run).read_text()).text

    assert "the run has no row 'alone'" in text
    assert all(f"{name} is not in the run folder" in text for name in OPTIONAL)


def test_a_whole_run_has_nothing_to_say_about_missing_files(source):
    assert "What is missing" not in source


def test_a_published_number_is_shown_with_its_source(tmp_path):
    run = write_run(tmp_path)
    cited = {"top1": 75.12, "source": "DOT, table 1", "runs": 1, "caveat": "under another teacher"}
    data = results_of(run, published=cited)
    data["data"]["batch_size"] = 64
    (run / "results.json").write_text(json.dumps(data))

    text = Page(write_report(run).read_text()).text

    assert "Published: top-1 75.12 % (DOT, table 1; one run; under another teacher)." in text
    assert "8 epochs of batches of 64, seeds 0, 1, 2" in text


def test_every_published_source_is_shown_with_all_it_reports_and_the_headlines_first(tmp_path):
    run = write_run(tmp_path)
    first = {"top1": 73.33, "top5": 93.0, "task_loss": 0.3844, "source": "DOT, tables 3 (a) and 8"}
    further = {"top1": 73.08, "source": "another paper, table 4"}
    (run / "results.json").write_text(json.dumps(results_of(run, published=[first, further])))

    text = Page(write_report(run).read_text()).text

    assert (
        "Published: top-1 73.33 %, top-5 93.00 %, task loss 0.3844 (DOT, tables 3 (a) and 8); "
        "top-1 73.08 % (another paper, table 4)."
    ) in text


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"results\.json"):
        write_report(tmp_path)


def test_mistakes_are_counted_per_seed_and_the_most_frequent_come_first(full_run):
    run = read_run(full_run)
    predictions = run.predictions
    assert predictions is not None

    found = mistakes(run, "kd")

    true, said = int(found[0].true), int(found[0].said)
    pairs = (predictions.labels == true) & (predictions.rows["kd"] == said)
    assert found[0].student_images == pairs.sum() / 3
    assert [m.student_images for m in found] == sorted((m.student_images for m in found), reverse=True)


def test_unlearnt_images_are_right_by_the_teacher_and_wrong_under_every_seed(full_run):
    run = read_run(full_run)
    predictions = run.predictions
    assert predictions is not None
    assert predictions.teacher is not None

    found = unlearnt(run, "kd")

    wrong = (predictions.rows["kd"] != predictions.labels).all(axis=0)
    expected = wrong & (predictions.teacher == predictions.labels)
    assert found is not None
    assert list(found.images) == expected.nonzero()[0].tolist()
    assert found.images


def test_a_changed_recipe_names_its_changes_and_no_published_number(tmp_path):
    folder = write_run(tmp_path / "run")
    changed = [{"key": "update.delta", "before": 0.075, "now": -0.09}, {"key": "ema", "before": None, "now": 0.9}]
    results = results_of(folder, changed=changed, changed_from="classification/cifar100/kd-dot/vgg13-vgg8")
    (folder / "results.json").write_text(json.dumps(results))

    text = Page(write_report(folder).read_text()).text

    said = "Changed for cifar100/kd-dot/vgg13-vgg8: update.delta -0.09 (there 0.075), ema 0.9 (there null)."
    assert said in text
    assert "Published" not in text


def test_rows_show_what_was_published_for_them_and_whose_settings_they_have(tmp_path):
    folder = write_sweep(tmp_path / "run", [{"update.delta": 0.05}, {"update.delta": 0.09}], published=(74.22,))
    results = results_of(folder)
    results["rows"][1]["settings_from"] = "recipe cifar100/kd-dot/vgg13-vgg8"
    (folder / "results.json").write_text(json.dumps(results))

    text = Page(write_report(folder).read_text()).text

    assert "published top-1, %" in text
    assert "74.22" in text
    assert "a table" in text
    assert "recipe cifar100/kd-dot/vgg13-vgg8" in text
