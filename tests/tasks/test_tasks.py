"""Classification: its loss, its Pairing, its scores."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.engine import batches, small_net, small_teacher, tiny_recipe
from understudy import Batch, Classification, Observation, StudentSpec, TappedModel, UserError
from understudy.core.batch import Pairing
from understudy.results.items import item_scores
from understudy.runs.components import open_components
from understudy.tasks import ClassEvaluation, Evaluation, class_weights_for
from understudy.training.build import BuildContext, build_student

CPU = torch.device("cpu")


def pair(task: Classification, targets: Tensor, seen: Observation | None = None):
    images = batches()[0].images
    student = TappedModel(small_net(1), ["embedding"])
    loss, pairings = task.pair(student, seen or Observation(), Batch(images, targets))
    return loss, pairings["main"]


def evaluated(num_classes: int, logits: Tensor, labels: Tensor, *, batch_size: int = 3) -> ClassEvaluation:
    """Scores of a predictor whose logits are those of the batch's places."""
    places = torch.arange(len(labels)).split(batch_size)
    data = [Batch(torch.zeros(len(part), 3, 1, 1), labels[part], indices=part) for part in places]
    return Classification(num_classes).evaluate({"it": lambda batch: logits[batch.indices]}, data, CPU)["it"]


class TestLoss:
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_it_is_torchs_cross_entropy_with_label_smoothing(self, smoothing: float) -> None:
        loss, pairing = pair(Classification(10, label_smoothing=smoothing), batches()[0].targets)
        expected = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(pairing.student_logits, batches()[0].targets)
        assert torch.equal(loss, expected)
        assert loss.requires_grad

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_images_without_a_label_do_not_count(self, smoothing: float) -> None:
        targets = batches()[0].targets.clone()
        targets[[1, 4]] = -1
        loss, pairing = pair(Classification(10, label_smoothing=smoothing), targets)
        labelled = targets >= 0
        expected = F.cross_entropy(pairing.student_logits[labelled], targets[labelled], label_smoothing=smoothing)
        torch.testing.assert_close(loss, expected)
        assert torch.equal(pairing.labels, targets)

    def test_a_batch_without_any_label_has_a_loss_of_zero(self) -> None:
        loss, _ = pair(Classification(10), torch.full((8,), -1))
        assert loss.item() == 0.0

    def test_mixed_labels_are_weighed_by_their_shares(self) -> None:
        one, other = batches()[0].targets, batches()[0].targets.roll(1)
        mixed = 0.25 * F.one_hot(one, 10) + 0.75 * F.one_hot(other, 10)
        loss, pairing = pair(Classification(10), mixed)
        by_hand = 0.25 * F.cross_entropy(pairing.student_logits, one) + 0.75 * F.cross_entropy(
            pairing.student_logits, other
        )
        torch.testing.assert_close(loss, by_hand)

    def test_half_precision_logits_are_raised_to_float32(self) -> None:
        class HalfOutput(torch.nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return images.flatten(1)[:, :10].half()

        images = batches()[0].images
        _, pairings = Classification(10).pair(TappedModel(HalfOutput()), Observation(), batches()[0])
        assert pairings["main"].student_logits.dtype == torch.float32
        assert torch.equal(pairings["main"].student_logits, images.flatten(1)[:, :10].half().float())

    def test_an_output_that_is_no_tensor_is_refused(self) -> None:
        class TupleOutput(torch.nn.Module):
            def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
                return images, images

        expected = r"must return a \(B,C\) tensor of logits, but this one returns tuple; wrap it"
        with pytest.raises(UserError, match=expected):
            Classification(10).pair(TappedModel(TupleOutput()), Observation(), batches()[0])


class TestPairing:
    def test_row_i_is_the_same_image_on_either_side(self) -> None:
        teacher = small_teacher()
        teacher.tap(["embedding"])
        batch = Batch(
            batches()[0].images, batches()[0].targets, indices=torch.arange(8), copies=torch.zeros(8, dtype=torch.long)
        )
        seen = teacher.observe(batch)
        student = TappedModel(small_net(1).eval(), ["embedding"])
        _, pairings = Classification(10).pair(student, seen, batch)
        found = pairings["main"]
        row = Batch(batch.images[3:4], batch.targets[3:4])
        torch.testing.assert_close(found.student_logits[3:4], student(row.images)[0])
        torch.testing.assert_close(found.teacher_logits[3:4], teacher.observe(row).output)
        torch.testing.assert_close(found.teacher_features["embedding"][3:4], teacher.observe(row).features["embedding"])
        torch.testing.assert_close(found.student_features["embedding"][3:4], student(row.images)[1]["embedding"])
        assert found.indices is batch.indices
        assert found.copies is batch.copies

    def test_without_a_teacher_there_are_no_teacher_logits(self) -> None:
        _, pairing = pair(Classification(10), batches()[0].targets)
        assert pairing.teacher_logits is None
        assert dict(pairing.teacher_features) == {}

    def test_only_the_students_side_carries_gradient(self) -> None:
        teacher = small_teacher()
        teacher.tap(["embedding"])
        _, pairing = pair(Classification(10), batches()[0].targets, teacher.observe(batches()[0]))
        assert pairing.student_logits.requires_grad
        assert pairing.student_features["embedding"].requires_grad
        assert not pairing.teacher_logits.requires_grad
        assert not pairing.teacher_features["embedding"].requires_grad


class TestBatchMeasures:
    """Top-1 of rows 0 to 3, which predict classes 0, 1, 2 and 0."""

    LOGITS = 9.0 * F.one_hot(torch.tensor([0, 1, 2, 0]), 3)

    @pytest.mark.parametrize(
        ("labels", "copies", "top1", "num_labelled"),
        [
            (torch.tensor([0, 1, 0, 0]), None, 75.0, 4),
            (torch.tensor([0, -1, 0, -1]), None, 50.0, 2),
            (torch.tensor([-1, -1, -1, -1]), None, 0.0, 0),
            (torch.tensor([0, 1, 2, 1]), torch.tensor([0, 1, 0, 1]), 100.0, 2),
            (torch.tensor([[0.6, 0.4, 0.0]] * 4), None, 50.0, 4),
        ],
        ids=["labels", "some without", "none", "copies", "mixed"],
    )
    def test_top1_is_of_the_labelled_images_that_are_no_copies(
        self, labels: Tensor, copies: Tensor | None, top1: float, num_labelled: int
    ) -> None:
        logits = self.LOGITS.clone().requires_grad_()
        found = Classification(3).batch_measures(Pairing(logits, None, labels, copies=copies))
        assert {name: value.item() for name, value in found.means.items()} == {"top1": top1}
        assert found.num_labelled.item() == num_labelled
        assert not found.means["top1"].requires_grad


class TestScores:
    @pytest.mark.parametrize("batch_size", [3, 7, 100])
    def test_top1_top5_and_loss_equal_a_count_by_hand(self, batch_size: int) -> None:
        drawn = torch.Generator().manual_seed(1)
        logits, labels = torch.randn(20, 8, generator=drawn), torch.randint(8, (20,), generator=drawn)
        ranked = logits.argsort(dim=1, descending=True)
        first = sum(int(ranked[i, 0] == labels[i]) for i in range(20))
        among_five = sum(int(labels[i] in ranked[i, :5]) for i in range(20))
        loss = -sum(logits[i].log_softmax(0)[labels[i]].item() for i in range(20)) / 20
        found = evaluated(8, logits, labels, batch_size=batch_size)
        by_class = [(ranked[labels == c, 0] == c).double().mean().item() for c in labels.unique()]
        balanced = 100 * sum(by_class) / len(by_class)
        assert balanced != pytest.approx(100 * first / 20)
        assert found.scores == pytest.approx(
            {
                "top1": 100 * first / 20,
                "top5": 100 * among_five / 20,
                "loss": loss,
                "balanced_accuracy": round(balanced, 4),
            },
            rel=1e-6,
        )
        assert 0 < first < among_five < 20  # else this test could not tell them apart
        assert torch.equal(found.predictions, ranked[:, 0])
        assert torch.equal(found.labels, labels)

    @pytest.mark.parametrize(("num_classes", "has_top5"), [(2, False), (5, False), (6, True)])
    def test_top5_is_given_above_five_classes_only(self, num_classes: int, has_top5: bool) -> None:
        found = evaluated(num_classes, torch.randn(6, num_classes), torch.arange(6) % num_classes)
        assert ("top5" in found.scores) == has_top5
        assert (found.top5 is not None) == has_top5

    def test_images_without_a_label_are_not_scored(self) -> None:
        logits, labels = 9.0 * F.one_hot(torch.tensor([0, 1, 2, 3]), 6), torch.tensor([0, 1, 0, -1])
        found = evaluated(6, logits, labels)
        assert found.top1 == pytest.approx(200 / 3)

    def test_one_logit_that_is_not_a_number_makes_the_loss_none_either(self) -> None:
        logits, labels = torch.zeros(6, 6), torch.zeros(6, dtype=torch.long)
        logits[4, 2] = torch.nan
        assert not math.isfinite(evaluated(6, logits, labels).loss)

    def test_several_predictors_are_scored_on_one_pass(self) -> None:
        passes = []

        def data():
            passes.append(1)
            yield from batches()

        networks = {"one": small_net(1).eval(), "other": small_net(2).eval()}
        predictors = {name: lambda batch, network=network: network(batch.images) for name, network in networks.items()}
        found = Classification(10).evaluate(predictors, data(), CPU)
        assert len(passes) == 1
        for name, predict in predictors.items():
            alone = Classification(10).evaluate({name: predict}, batches(), CPU)[name]
            assert alone.scores == found[name].scores

    def test_agreement_is_the_share_of_equal_predictions(self) -> None:
        def evaluation(*predictions: int) -> ClassEvaluation:
            return ClassEvaluation.of(
                torch.tensor(predictions), torch.zeros(4, dtype=torch.long), top1=0.0, top5=None, loss=0.0
            )

        assert evaluation(0, 1, 2, 3).agreement_with(evaluation(0, 1, 2, 0)) == 75.0

    def test_what_is_kept_of_an_evaluation_tells_its_scores_item_by_item(self) -> None:
        one, other = torch.tensor([0.5, 0.25, 1.0]), torch.tensor([0.75, 0.5, 0.0])
        tensors = Evaluation({"miou": 58.3}, one).kept_as("val", "kd/0") | Evaluation({}, other).kept_as("val", "kd/1")
        assert item_scores(tensors, split="val", row="kd", seeds=[0, 1]).tolist() == [one.tolist(), other.tolist()]
        assert item_scores(tensors, split="val", row="kd", seeds=[0, 2]) is None
        found = evaluated(6, 9.0 * F.one_hot(torch.tensor([0, 1, 2]), 6), torch.tensor([0, 1, 0]))
        assert item_scores(found.kept_as("test", "kd/3"), split="test", row="kd", seeds=[3]).tolist() == [
            [True, True, False]
        ]
        assert found.per_item.double().mean().item() == pytest.approx(found.top1 / 100, abs=1e-6)

    def test_nothing_to_evaluate_on_is_said(self) -> None:
        with pytest.raises(UserError, match="there are no images to evaluate on"):
            Classification(10).evaluate({"it": lambda batch: batch.images}, [], CPU)


def test_a_row_that_is_no_number_is_no_prediction_and_never_right() -> None:
    logits = torch.eye(8).repeat(1, 1)
    logits[0] = torch.nan  # argmax would call it class 0, which it is
    batch = Batch(images=logits, targets=torch.arange(8))
    task = Classification(num_classes=8)

    found = task.evaluate({"student": lambda batch: batch.images}, [batch], torch.device("cpu"))["student"]

    assert found.top1 == 87.5
    assert found.top5 is not None
    assert found.top5 < 100
    assert found.predictions.tolist() == [-1, *range(1, 8)]


def test_balanced_accuracy_is_the_mean_of_the_classes_own() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 3, 3])
    said = torch.tensor([0, 0, 0, 1, 0, 3, 3])
    found = evaluated(5, F.one_hot(said, 5).double(), labels)
    assert found.balanced_accuracy == pytest.approx(100 * (3 / 4 + 0 + 1) / 3)
    assert found.top1 == pytest.approx(100 * 5 / 7, abs=1e-4)


class TestClassWeights:
    WEIGHTS = torch.linspace(0.01, 0.1, 10)  # a batch of them sums to less than 1

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    @pytest.mark.parametrize("are_mixed", [False, True])
    def test_the_loss_is_torchs_weighted_mean(self, smoothing: float, are_mixed: bool) -> None:
        targets = batches()[0].targets
        if are_mixed:
            targets = 0.3 * F.one_hot(targets, 10) + 0.7 * F.one_hot(targets.roll(1), 10)
        loss, pairing = pair(Classification(10, label_smoothing=smoothing, class_weights=self.WEIGHTS), targets)
        wanted = torch.nn.CrossEntropyLoss(weight=self.WEIGHTS, label_smoothing=smoothing)
        torch.testing.assert_close(loss, wanted(pairing.student_logits, targets))

    def test_images_without_a_label_do_not_count(self) -> None:
        targets = batches()[0].targets.clone()
        targets[[1, 4]] = -1
        loss, pairing = pair(Classification(10, class_weights=self.WEIGHTS), targets)
        known = targets >= 0
        wanted = F.cross_entropy(pairing.student_logits[known], targets[known], weight=self.WEIGHTS)
        torch.testing.assert_close(loss, wanted)
        assert pair(Classification(10, class_weights=self.WEIGHTS), torch.full((8,), -1))[0].item() == 0

    @pytest.mark.parametrize("passes", [2, 4])
    def test_a_step_in_several_passes_is_the_weighted_mean_over_the_whole_step(self, passes: int) -> None:
        moved = []
        for count in (1, passes):
            task = Classification(10, class_weights=self.WEIGHTS)
            around = BuildContext(task=task, num_classes=10, sample=batches()[0].images)
            torch.manual_seed(0)
            network = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
            network(batches()[0].images)
            student = build_student(StudentSpec(network, accumulate=count), around)
            student.train()
            student.step(batches()[0], Observation(), epoch=1)
            moved.append(network[1].weight.detach().clone())
        torch.testing.assert_close(moved[1], moved[0], rtol=1e-5, atol=1e-7)

    def test_balanced_weights_let_all_classes_count_the_same(self) -> None:
        labels = torch.tensor([0, 0, 0, 1, -1, -1, 3, 3])
        weights = class_weights_for("balanced", labels, 4)
        torch.testing.assert_close(weights, torch.tensor([6 / 12, 6 / 4, 6 / 4, 6 / 8]))
        assert class_weights_for(None, labels, 4) is None
        assert class_weights_for((1, 2, 3, 4), labels, 4).tolist() == [1, 2, 3, 4]

    @pytest.mark.parametrize(
        ("setting", "text"),
        [
            ((1.0, 2.0), r"one for each of the 4 classes.*got \(2,\)"),
            ((0.0,) * 4, "one of them above"),
            ((1.0, 1.0, -1.0, 1.0), "at least 0"),
            ((1.0, 1.0, math.nan, 1.0), "at least 0"),
        ],
    )
    def test_weights_that_do_not_fit_the_classes_are_refused(self, setting: tuple[float, ...], text: str) -> None:
        with pytest.raises(UserError, match=text):
            class_weights_for(setting, torch.arange(4), 4)

    def test_labels_that_nobody_has_read_cannot_be_counted(self) -> None:
        with pytest.raises(UserError, match="balanced counts the training labels"):
            class_weights_for("balanced", torch.full((8,), -1), 4)

    def test_a_recipe_says_them(self) -> None:
        data = {"train_rows": "0:80"}
        task = open_components(
            tiny_recipe({"data": data, "class_weights": "balanced"}), allow_code=False, say=print
        ).task
        assert task.class_weights is not None
        labels = open_components(tiny_recipe({"data": data}), allow_code=False, say=print).data.train.labels
        totals = torch.bincount(labels, minlength=10) * task.class_weights
        torch.testing.assert_close(totals, torch.full((10,), 8.0))
        with pytest.raises(UserError, match="one for each of the 10 classes"):
            open_components(tiny_recipe({"class_weights": [1, 2]}), allow_code=False, say=print)
