"""One training step, and several students beside each other."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.engine import (
    CLASSES,
    CPU,
    ROWS,
    batches,
    measured,
    plain_batches,
    small_net,
    small_teacher,
    spec_of,
    student_of,
    trained,
)
from helpers.states import differing, tensors_of
from understudy import Batch, Joint, LiveTeacher, Observation, Schedule, StudentSpec, Trainer, UserError, methods
from understudy.methods.kd import KD
from understudy.training.student import Student, WeightedMethod

KD_T3 = methods.KD.Config(temperature=3.0, weight=0.7)


def kl_by_hand(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    seen, said = (teacher_logits / temperature).softmax(1), (student_logits / temperature).softmax(1)
    return (seen * (seen.log() - said.log())).sum(1).mean()


class TestLosses:
    def test_the_task_loss_and_the_terms_enter_with_their_weights(self) -> None:
        teacher = small_teacher()
        student = student_of(StudentSpec(small_net(1), method=KD_T3, task_weight=0.3), teacher)
        batch = batches()[0]
        seen = teacher.observe(batch)
        logits, _ = student.model(batch.images)
        record = student.step(batch, seen, epoch=1)
        task, kd = F.cross_entropy(logits, batch.targets), 9 * kl_by_hand(logits, seen.output, 3.0)
        expected = {"task": 0.3 * task, "distill": 0.7 * kd, "task_loss": task, "kd": kd}
        found = {name: record.mean(name).float() for name in expected}
        torch.testing.assert_close(found, {name: value.detach() for name, value in expected.items()})

    def test_the_terms_of_several_methods_are_summed_each_with_its_own_weight(self) -> None:
        teacher = small_teacher()
        both = (KD_T3, methods.DIST.Config(weight=0.2))
        student = student_of(StudentSpec(small_net(1), method=both), teacher)
        record = student.step(batches()[0], teacher.observe(batches()[0]), epoch=1)
        expected = 0.7 * record.mean("kd") + 0.2 * (record.mean("dist.inter") + record.mean("dist.intra"))
        torch.testing.assert_close(record.mean("distill"), expected, rtol=1e-6, atol=0)

    def test_the_warmup_grows_with_the_epoch_and_not_within_it(self) -> None:
        warming = KD_T3.model_copy(update={"warmup_epochs": 3})
        teacher = small_teacher()
        trainer = Trainer([student_of(StudentSpec(small_net(1), method=warming), teacher)], teacher=teacher, device=CPU)
        seen: list[float] = []
        trainer.fit(plain_batches(), epochs=5, watcher=RatioWatcher(seen))
        expected = [weight for epoch in range(1, 6) for weight in [0.7 * min(epoch / 3, 1)] * 3]
        assert seen == pytest.approx(expected, rel=1e-5)

    def test_without_a_warmup_the_whole_weight_counts_from_the_first_epoch_on(self) -> None:
        weighted = WeightedMethod(nn.Module(), 0.7)  # type: ignore[arg-type]
        assert [weighted.weight_in(epoch) for epoch in (1, 2, 9)] == [0.7, 0.7, 0.7]

    def test_two_methods_of_one_name_are_logged_apart(self) -> None:
        teacher = small_teacher()
        both = (KD_T3, methods.KD.Config(temperature=1.0))
        student = student_of(StudentSpec(small_net(1), method=both), teacher)
        record = student.step(batches()[0], teacher.observe(batches()[0]), epoch=1)
        assert list(record.sums)[:3] == ["task_loss", "kd", "kd#2"]

    def test_a_student_alone_has_no_distillation_loss(self) -> None:
        record = student_of(StudentSpec(small_net(1))).step(batches()[0], Observation(), epoch=1)
        assert list(record.sums) == ["task_loss", "task", "top1"]


class RatioWatcher:
    """Weight of the distillation loss at every step, from what the meters recorded of it."""

    def __init__(self, seen: list[float]) -> None:
        self.seen = seen

    def stepped(self, trainer: Trainer, *, is_last: bool) -> None:
        means = measured(trainer, trainer.students[0].name)
        self.seen.append(means["distill"] / means["kd"])

    def finished_epoch(self, trainer: Trainer) -> None:
        """Nothing to see at an epoch's end."""


class TestYardstick:
    @pytest.mark.parametrize("row", ["alone", "kd", "projector"])
    def test_every_row_is_measured_by_the_divergence_at_temperature_four(self, row: str) -> None:
        teacher = small_teacher()
        trainer = Trainer([student_of(spec_of(row, dropout=0), teacher)], teacher=teacher, device=CPU)
        trainer.begin(epochs=1, steps_per_epoch=1)
        student = trainer.students[0]
        batch = batches()[0]
        before = student.model(batch.images)[0].detach()
        trainer.take_step(batch)
        expected = kl_by_hand(before, teacher.observe(batch).output, 4.0)
        assert measured(trainer, row)["kl_to_teacher"] == pytest.approx(expected.item(), rel=1e-5)

    def test_it_is_left_out_without_a_teacher_and_with_one_of_other_classes(self) -> None:
        other = LiveTeacher(small_net(2, num_classes=7))
        for teacher in (None, other):
            trainer = trained(["alone"], teacher, epochs=1)
            assert set(trainer.history["alone"][0]["train"]) == {"task_loss", "top1"}

    def test_top1_on_training_batches_counts_images_in_percent(self) -> None:
        student = student_of(StudentSpec(small_net(1)))
        trainer = Trainer([student], teacher=None, device=CPU)
        trainer.begin(epochs=1, steps_per_epoch=1)
        images = batches()[0].images
        right = student.model(images)[0].argmax(1)
        targets = right.clone()
        targets[:2] = (right[:2] + 1) % CLASSES
        trainer.take_step(Batch(images, targets))
        assert measured(trainer, "alone")["top1"] == 75.0

    def test_top1_on_training_batches_passes_over_images_without_a_label(self) -> None:
        student = student_of(StudentSpec(small_net(1)))
        trainer = Trainer([student], teacher=None, device=CPU)
        trainer.begin(epochs=1, steps_per_epoch=1)
        images = batches()[0].images
        targets = student.model(images)[0].argmax(1)
        targets[:2] = -1
        trainer.take_step(Batch(images, targets))
        assert measured(trainer, "alone")["top1"] == 100.0

    def test_mixed_labels_are_counted_by_their_largest_share(self) -> None:
        student = student_of(StudentSpec(small_net(1)))
        trainer = Trainer([student], teacher=None, device=CPU)
        trainer.begin(epochs=1, steps_per_epoch=1)
        images = batches()[0].images
        right = student.model(images)[0].argmax(1)
        mixed = 0.7 * F.one_hot(right, CLASSES) + 0.3 * F.one_hot((right + 1) % CLASSES, CLASSES)
        trainer.take_step(Batch(images, mixed))
        assert measured(trainer, "alone")["top1"] == 100.0


class TestTrainer:
    def test_without_a_student_there_is_nothing_to_train(self) -> None:
        with pytest.raises(UserError, match="there is no student to train"):
            Trainer([], teacher=None, device=CPU)

    def test_two_students_of_one_name_are_refused(self) -> None:
        pair = [student_of(spec_of("alone")), student_of(spec_of("alone"))]
        with pytest.raises(UserError, match="alone"):
            Trainer(pair, teacher=None, device=CPU)

    def test_epoch_records_weigh_every_image_the_same(self) -> None:
        trainer = Trainer([student_of(StudentSpec(small_net(1)))], teacher=None, device=CPU)
        losses = LossWatcher()
        trainer.fit(plain_batches(), epochs=2, watcher=losses)
        for epoch, record in enumerate(trainer.history["alone"]):
            here = losses.found[3 * epoch : 3 * epoch + 3]
            mean = sum(loss * len(batch.images) for loss, batch in zip(here, batches(), strict=True)) / 21
            assert record["epoch"] == epoch + 1
            assert record["train"]["task_loss"] == pytest.approx(mean, rel=1e-12)

    def test_steps_and_epochs_are_counted(self) -> None:
        trainer = Trainer([student_of(StudentSpec(small_net(1)))], teacher=None, device=CPU)
        counter = LossWatcher()
        trainer.fit(plain_batches(), epochs=2, watcher=counter)
        assert counter.steps == [(1, 1, False), (1, 2, False), (1, 3, True), (2, 4, False), (2, 5, False), (2, 6, True)]
        assert (trainer.epoch, trainer.step_in_epoch) == (3, 0)

    def test_the_learning_rate_follows_the_schedule_step_by_step(self) -> None:
        spec = StudentSpec(small_net(1), update=Joint.Config(lr=0.1), schedule=Schedule(name="cosine"))
        trainer = Trainer([student_of(spec)], teacher=None, device=CPU)
        rates = LossWatcher()
        trainer.fit(plain_batches(), epochs=2, watcher=rates)
        steps = torch.arange(6, dtype=torch.float64)
        expected = 0.05 * (1 + torch.cos(torch.pi * steps / 6))
        assert rates.lr == pytest.approx(expected.tolist(), rel=1e-12)

    def test_fitting_in_two_calls_equals_fitting_in_one(self) -> None:
        constant = Schedule(name="constant")

        def trainer() -> Trainer:
            spec = replace(spec_of("kd+dot"), schedule=constant)
            teacher = small_teacher()
            return Trainer([student_of(spec, teacher)], teacher=teacher, device=CPU)

        once, twice = trainer(), trainer()
        once.fit(plain_batches(), epochs=3)
        twice.fit(plain_batches(), epochs=1)
        twice.fit(plain_batches(), epochs=3)
        assert differing(tensors_of(once.students[0]), tensors_of(twice.students[0])) == []
        assert once.history == twice.history

    def test_evaluation_changes_nothing_of_the_students_and_training_mode_is_back_afterwards(self) -> None:
        trainer = trained(["kd"], small_teacher())
        before = tensors_of(trainer.students[0])
        random_state = torch.get_rng_state()
        found = trainer.evaluate(batches())
        assert differing(before, tensors_of(trainer.students[0])) == []
        assert torch.equal(random_state, torch.get_rng_state())
        assert found["kd"].predictions.shape == (21,)
        trainer.fit(plain_batches(), epochs=3, val=batches())
        trainer.fit(plain_batches(), epochs=4)
        assert all(module.training for module in trainer.students[0].model.module.modules())

    def test_validation_scores_are_those_of_the_plain_network_in_evaluation_mode(self) -> None:
        trainer = Trainer([student_of(spec_of("alone"))], teacher=None, device=CPU)
        trainer.fit(plain_batches(), epochs=1, val=batches())
        network = trainer.students[0].deployed().eval()
        with torch.no_grad():
            logits = torch.cat([network(batch.images) for batch in batches()])
        labels = torch.cat([batch.targets for batch in batches()])
        found = trainer.evaluations["alone"]
        assert torch.equal(found.predictions, logits.argmax(1))
        scores = trainer.history["alone"][0]["val"]
        assert scores["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)

    def test_evaluating_on_other_images_leaves_the_scores_of_the_last_epoch(self) -> None:
        trainer = Trainer([student_of(spec_of("alone"))], teacher=None, device=CPU)
        trainer.fit(plain_batches(), epochs=1, val=batches())
        loss = trainer.evaluations["alone"].scores["loss"]
        assert trainer.evaluate(batches()[:1])["alone"].scores["loss"] != loss
        assert trainer.evaluations["alone"].scores["loss"] == loss == trainer.history["alone"][0]["val"]["loss"]

    @pytest.mark.parametrize(("headline", "better"), [("loss", min), ("top1", max)])
    def test_the_epoch_kept_is_the_best_one_by_the_tasks_headline_metric(self, headline, better) -> None:
        student = student_of(spec_of("alone"))
        student.task.headline = headline
        trainer = Trainer([student], teacher=None, device=CPU, selects_best=True)
        trainer.fit(plain_batches(), epochs=4, val=batches())
        scores = [record["val"][headline] for record in trainer.history["alone"]]
        assert student.best["epoch"] == 1 + scores.index(better(scores))

    def test_the_best_epoch_of_a_checkpoint_of_before_is_still_the_one_to_beat(self) -> None:
        student = student_of(spec_of("alone"))
        student.keep_if_best(2, 75.0)
        state = student.state_dict()
        state["best"] = {"epoch": 2, "top1": 75.0, "weights": state["best"]["weights"]}  # as it was kept then
        resumed = student_of(spec_of("alone"))
        resumed.load_state_dict(state)
        resumed.keep_if_best(3, 75.0)
        assert resumed.best["epoch"] == 2
        resumed.keep_if_best(4, 75.5)
        assert resumed.best["epoch"] == 4

    def test_a_resumed_trainer_that_is_done_still_evaluates(self) -> None:
        done = trained(["alone"], None)
        fresh = Trainer([student_of(spec_of("alone"))], teacher=None, device=CPU)
        fresh.load_state_dict(done.state_dict())
        fresh.fit(plain_batches(), epochs=2, val=batches())
        assert torch.equal(fresh.evaluations["alone"].predictions, done.evaluate(batches())["alone"].predictions)

    @pytest.mark.parametrize("row", list(ROWS))
    def test_a_trainer_restored_in_the_middle_of_an_epoch_goes_on_bit_for_bit(self, row: str) -> None:
        straight = trained([row], small_teacher())
        interrupted = Trainer([student_of(spec_of(row), teacher := small_teacher())], teacher=teacher, device=CPU)
        with pytest.raises(StopIteration):
            interrupted.fit(plain_batches(), epochs=2, watcher=StopsAfter(4))
        resumed = Trainer([student_of(spec_of(row), teacher := small_teacher())], teacher=teacher, device=CPU)
        resumed.load_state_dict(interrupted.state_dict())
        resumed.fit(plain_batches(), epochs=2)
        assert differing(tensors_of(straight.students[0]), tensors_of(resumed.students[0])) == []
        assert straight.history == resumed.history

    def test_what_a_method_deploys_is_what_is_evaluated(self) -> None:
        class ConstantKD(KD):
            def deployed(self, student: nn.Module) -> nn.Module:
                return AlwaysThree(student)

        teacher = small_teacher()
        plain = student_of(StudentSpec(small_net(1), method=KD_T3), teacher)
        weighted = WeightedMethod(ConstantKD(KD_T3, plain.methods[0].method.context), 1.0)
        student = Student(
            "wrapped", plain.model, task=plain.task, methods=[weighted], update=plain.update, schedule=Schedule()
        )
        trainer = Trainer([student], teacher=teacher, device=CPU)
        assert set(trainer.evaluate(batches())["wrapped"].predictions.tolist()) == {3}


class AlwaysThree(nn.Module):
    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor) -> Tensor:
        logits = self.student(images)
        return F.one_hot(torch.full((len(logits),), 3), CLASSES).to(logits)


class LossWatcher:
    """What the only student's meters and update say after every step."""

    def __init__(self) -> None:
        self.found: list[float] = []
        self.lr: list[float] = []
        self.steps: list[tuple[int, int, bool]] = []

    def stepped(self, trainer: Trainer, *, is_last: bool) -> None:
        student = trainer.students[0]
        self.found.append(measured(trainer, student.name)["task_loss"])
        self.lr.append(student.update.lr)
        self.steps.append((trainer.epoch, trainer.step, is_last))

    def finished_epoch(self, trainer: Trainer) -> None:
        """Nothing to see at an epoch's end."""


class StopsAfter:
    """Ends the training after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, trainer: Trainer, *, is_last: bool) -> None:
        if trainer.step == self.step:
            raise StopIteration

    def finished_epoch(self, trainer: Trainer) -> None:
        """Goes on."""
