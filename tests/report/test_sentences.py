"""The sentences a run is summed up in."""

import math

import pytest

from helpers.run_writer import results_with
from understudy.report import Speed, Timing, basis_sentence, comparison_table, cost_sentence, headline, row_sentence
from understudy.results.schema import ModelFacts
from understudy.utils.text import two_digits

AHEAD = {("kd+dot", "alone"): (2.8, 1.1, 4.4)}
SPEEDS = Timing(
    (
        Speed(model="cifar:resnet8", role="student", images_per_second=11_400),
        Speed(model="cifar:resnet20", role="teacher", images_per_second=1_213),
    )
)


def test_headline_of_a_clear_lead_gives_accuracy_lead_interval_and_what_is_kept():
    assert headline(results_with({"alone": 91.8, "kd+dot": 94.6}, AHEAD)) == (
        "kd+dot is the best row: 94.6 % ± 0.3, ahead of the student alone by 2.8 points (95 % interval 1.1 to 4.4); "
        "it keeps 95.7 % of the teacher's accuracy at 1/23 of its parameters."
    )


def test_headline_without_a_teacher_says_nothing_of_one():
    text = headline(results_with({"alone": 91.8, "kd+dot": 94.6}, AHEAD, teacher=None))

    assert text.endswith("(95 % interval 1.1 to 4.4).")


def test_headline_of_an_interval_that_spans_zero_says_that_the_rows_cannot_be_told_apart():
    text = headline(results_with({"alone": 91.8, "kd": 92.2}, {("kd", "alone"): (0.4, -0.5, 1.3)}))

    assert text == (
        "kd has the highest mean, 92.2 % ± 0.3, but its difference of 0.4 points to the student alone has a 95 % "
        "interval that spans zero (-0.5 to 1.3): these images and seeds cannot tell the rows apart; "
        "kd keeps 93.2 % of the teacher's accuracy at 1/23 of its parameters."
    )
    assert "best row" not in text


def test_headline_of_one_seed_has_no_deviation_and_says_what_the_interval_is_over():
    text = headline(results_with({"alone": 91.8, "kd+dot": 94.6}, AHEAD, seeds=1))

    assert "94.6 %, ahead" in text
    assert "(95 % interval 1.1 to 4.4 over images, with one seed)" in text


def test_headline_says_first_that_the_student_alone_is_best():
    results = results_with({"alone": 94.0, "kd": 92.0, "dist": 91.0}, {("kd", "alone"): (-2.0, -3.5, -0.5)})

    assert headline(results) == (
        "No row is ahead of the student alone, which reaches 94.0 % ± 0.3; the nearest, kd, is behind it by 2.0 points "
        "(95 % interval 0.5 to 3.5); "
        "the student alone keeps 95.0 % of the teacher's accuracy at 1/23 of its parameters."
    )


def test_headline_of_alone_best_by_chance_says_that_the_rows_cannot_be_told_apart():
    text = headline(results_with({"alone": 94.0, "kd": 93.8}, {("kd", "alone"): (-0.2, -1.0, 0.6)}))

    assert text.startswith("No row is ahead of the student alone")
    assert "whose difference of -0.2 points to alone has a 95 % interval that spans zero (-1.0 to 0.6)" in text
    assert "these images and seeds cannot tell the rows apart" in text


def test_headline_of_a_single_row_says_that_there_is_nothing_to_hold_it_against():
    text = headline(results_with({"dist": 94.6}))

    assert text.startswith("dist reaches 94.6 % ± 0.3; the run has no row 'alone' to hold it against; it keeps 95.7 %")


def test_headline_of_a_model_trained_alone_says_that_nothing_was_distilled():
    text = headline(results_with({"alone": 91.8}, teacher=None))

    assert text == "The student alone reaches 91.8 % ± 0.3; nothing was distilled in this run."


def test_headline_without_a_row_alone_holds_the_best_against_the_next():
    means = {"kd": 93.0, "dist": 94.0}

    assert "ahead of kd by 1.0 points" in headline(results_with(means, {("dist", "kd"): (1.0, 0.2, 1.9)}))
    assert "cannot tell the rows apart" in headline(results_with(means, {("dist", "kd"): (1.0, -0.2, 1.9)}))
    assert "next is kd with 93.0 % ± 0.3" in headline(results_with(means))


def test_headline_without_an_interval_admits_it():
    assert "2.8 points above the student alone (no interval)" in headline(results_with({"alone": 91.8, "kd": 94.6}))


def test_headline_passes_over_rows_that_diverged():
    results = results_with({"alone": 91.8, "kd": math.nan, "kd+dot": 94.6}, AHEAD)

    assert headline(results).startswith("kd+dot is the best row")


def test_headline_of_a_run_in_which_every_row_diverged_says_so():
    assert headline(results_with({"alone": math.nan, "kd": math.nan})).startswith("No row came to a number")


def test_headline_of_a_student_better_than_its_teacher_claims_no_more_than_that():
    text = headline(results_with({"alone": 91.8, "kd+dot": 94.6}, AHEAD, teacher=94.0, student_parameters=272_474))

    assert text.endswith("it is above the teacher's 94.0 % at 100 % of its parameters.")


def test_a_small_lead_never_reads_as_none():
    text = headline(results_with({"alone": 91.8, "kd+dot": 91.84}, {("kd+dot", "alone"): (0.04, 0.01, 0.07)}))

    assert "by 0.04 points (95 % interval 0.01 to 0.07)" in text


def test_speeds_that_were_measured_far_apart_give_a_range():
    results = results_with({"alone": 91.8, "kd+dot": 94.6}, AHEAD)

    def said(lowest, highest):
        fast, slow = SPEEDS.speeds
        fast = fast.model_copy(update={"lowest": lowest, "highest": highest})
        slow = slow.model_copy(update={"lowest": 1_200.0, "highest": 1_220.0})
        return cost_sentence(results, Timing((fast, slow)))

    assert "is 9.4x as fast on this machine." in said(11_000.0, 12_000.0)
    assert "is 5.2 to 10x as fast on this machine." in said(6_300.0, 12_400.0)


def test_what_students_cost_is_said_once_for_all_rows():
    results = results_with({"alone": 91.8, "kd+dot": 94.6}, AHEAD)

    assert row_sentence(results, results.rows[1]) == (
        "kd+dot is ahead of alone by 2.8 points (95 % interval 1.1 to 4.4)."
    )
    assert cost_sentence(results, SPEEDS) == (
        "Each student has 1/23 of the teacher's parameters and is 9.4x as fast on this machine."
    )


def test_the_cost_without_speeds_or_a_teacher_leaves_them_out():
    results = results_with({"alone": 91.8, "kd+dot": 94.6}, AHEAD)

    assert cost_sentence(results) == "Each student has 1/23 of the teacher's parameters."
    assert cost_sentence(results_with({"alone": 91.8, "kd+dot": 94.6}, AHEAD, teacher=None), SPEEDS) is None


def test_students_that_cost_unlike_are_named():
    results = results_with({"alone": 91.8, "kd": 92.0, "simkd": 94.6})
    larger = results.rows[2].model_copy(update={"student": ModelFacts(model="cifar:resnet8", parameters=24_084)})

    assert cost_sentence(results.model_copy(update={"rows": (*results.rows[:2], larger)})) == (
        "The students cost unlike: that of alone, kd has 1/23 of the teacher's parameters; "
        "that of simkd has 1/11 of the teacher's parameters."
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (20_912.0, "21,000"),
        (8_123.0, "8,100"),
        (614.2, "610"),
        (17.49, "17"),
        (9.96, "10"),
        (9.44, "9.4"),
        (0.51, "0.51"),
    ],
)
def test_a_speed_has_the_two_digits_that_a_repetition_would_confirm(value, text):
    assert two_digits(value) == text


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((-2.0, -3.5, -0.5), "kd is behind alone by 2.0 points (95 % interval 0.5 to 3.5)"),
        ((-0.2, -1.0, 0.6), "kd is behind alone by 0.2 points, but the 95 % interval, -1.0 to 0.6, spans zero"),
        ((0.2, -0.6, 1.0), "kd is ahead of alone by 0.2 points, but the 95 % interval, -0.6 to 1.0, spans zero"),
    ],
)
def test_row_sentence_is_as_plain_about_a_loss(interval, expected):
    results = results_with({"alone": 92.0, "kd": 92.0 + interval[0]}, {("kd", "alone"): interval})

    assert row_sentence(results, results.rows[1]).startswith(expected)


def test_row_sentence_of_alone_tells_its_accuracy():
    results = results_with({"alone": 92.0, "kd": 93.0})

    assert row_sentence(results, results.rows[0]).startswith("alone reaches 92.0 % ± 0.3")


def test_basis_names_epoch_images_and_seeds():
    assert basis_sentence(results_with({"kd": 93.0})) == (
        "Top-1 after the last of 20 epochs on 450 validation images (held out); mean ± standard deviation over 3 seeds."
    )
    assert "nothing is known of the spread" in basis_sentence(results_with({"kd": 93.0}, seeds=1))


def test_a_result_whose_epoch_was_chosen_on_the_test_images_says_so_in_headline_basis_and_heading():
    chosen = results_with({"alone": 91.8, "kd+dot": 94.6}, AHEAD).model_copy(update={"select_on": "test"})

    assert headline(chosen).endswith(
        "Its epoch was chosen on the test images that it is measured on, so the numbers flatter."
    )
    sentences = {row.name: row_sentence(chosen, row) for row in chosen.rows}
    assert {name: "so the numbers flatter" in text for name, text in sentences.items()} == {
        "alone": False,
        "kd+dot": True,  # the best one, which the command line ends with
    }
    assert "at the best of 20 epochs, chosen on these very images," in basis_sentence(chosen)
    assert "%, best TEST epoch" in [column.note for column in comparison_table(chosen).columns]


def test_averaged_weights_are_named_as_such():
    averaged = results_with({"alone": 91.8}).model_copy(update={"weights": "averaged"})

    assert basis_sentence(averaged).endswith("Weights are averages over the steps.")
