"""Recipe and specs -> students: what every row starts from, and what is refused before training."""

import copy
import re
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from helpers.engine import (
    CLASSES,
    DROPOUT_STUDENT,
    ROWS,
    batches,
    small_net,
    small_teacher,
    spec_of,
    student_of,
    tiny_recipe,
    trained,
)
from helpers.states import differing, tensors_of
from understudy import (
    DOT,
    Classification,
    Joint,
    LiveTeacher,
    Observation,
    Recipe,
    StudentSpec,
    UserError,
    methods,
)
from understudy import trainer as trainer_by_hand
from understudy.distributed.world import World
from understudy.models import network_of
from understudy.recipes.comparison import rows_of
from understudy.recipes.schema import merged
from understudy.runs.build import build_student, build_trainer
from understudy.runs.checks import check_rows, size_notes
from understudy.runs.components import Components, open_components

UPDATES = [Joint.Config(lr=0.1, weight_decay=0), DOT.Config(lr=0.1, weight_decay=0)]


def parts_of(recipe: Recipe) -> Components:
    return open_components(recipe, allow_code=False, say=lambda text: None)


def refusal(recipe: Recipe) -> str:
    with pytest.raises(UserError) as caught:
        check_rows(parts_of(recipe), rows_of(recipe))
    return str(caught.value)


class TestRowsBesideEachOther:
    @pytest.mark.parametrize("row", list(ROWS))
    def test_a_row_ends_with_the_same_weights_alone_and_beside_others_dropout_included(self, row: str) -> None:
        apart = trained([row], small_teacher())
        beside = trained(list(ROWS), small_teacher())
        student = next(student for student in beside.students if student.name == row)
        assert differing(tensors_of(apart.students[0]), tensors_of(student)) == []
        assert apart.history[row] == beside.history[row]

    def test_dropout_is_at_work_in_these_comparisons(self) -> None:
        with_dropout = student_of(spec_of("alone"))
        without = student_of(spec_of("alone", dropout=0))
        for student in (with_dropout, without):
            student.step(batches()[0], Observation(), epoch=1)
        assert differing(tensors_of(with_dropout), tensors_of(without)) != []

    def test_a_student_alone_learns_the_same_whatever_teacher_looks_on(self) -> None:
        teachers = [None, small_teacher(), LiveTeacher(small_net(5, channels=3))]
        found = [tensors_of(trained(["alone"], teacher).students[0]) for teacher in teachers]
        assert differing(found[0], found[1]) == []
        assert differing(found[0], found[2]) == []

    def test_a_step_leaves_the_random_state_outside_alone_and_does_not_read_it(self) -> None:
        one, other = student_of(spec_of("alone")), student_of(spec_of("alone"))
        torch.manual_seed(3)
        outside = torch.get_rng_state()
        one.step(batches()[0], Observation(), epoch=1)
        assert torch.equal(torch.get_rng_state(), outside)
        torch.manual_seed(4)
        other.step(batches()[0], Observation(), epoch=1)
        assert differing(tensors_of(one), tensors_of(other)) == []

    def test_dropout_draws_anew_at_every_step(self) -> None:
        frozen = Joint.Config(lr=1e-30, weight_decay=0, momentum=0)
        student = student_of(StudentSpec(small_net(1, dropout=0.5), update=frozen))
        drawn = [student.step(batches()[0], Observation(), epoch=1).mean("task").item() for _ in range(3)]
        assert len(set(drawn)) == 3

    def test_another_seed_draws_other_dropout(self) -> None:
        found = [student_of(spec_of("alone"), seed=seed) for seed in (0, 1)]
        for student in found:
            student.step(batches()[0], Observation(), epoch=1)
        assert differing(tensors_of(found[0]), tensors_of(found[1])) != []


class TestConnectors:
    @pytest.mark.parametrize("update", UPDATES, ids=["joint", "dot"])
    def test_they_are_trained_by_the_update(self, update: Joint.Config | DOT.Config) -> None:
        teacher = small_teacher()
        student = student_of(StudentSpec(small_net(1), method=methods.Projector.Config(), update=update), teacher)
        before = tensors_of(student)
        student.step(batches()[0], teacher.observe(batches()[0]), epoch=1)
        moved = differing(before, tensors_of(student))
        assert "/connectors/0.projector.weight" in moved
        assert "/model/fc.weight" in moved

    @pytest.mark.parametrize("update", UPDATES, ids=["joint", "dot"])
    def test_a_feature_loss_alone_moves_the_backbone_and_not_the_classifier(
        self, update: Joint.Config | DOT.Config
    ) -> None:
        teacher = small_teacher()
        spec = StudentSpec(small_net(1), method=methods.Projector.Config(kl_weight=0), task_weight=0, update=update)
        student = student_of(spec, teacher)
        before = tensors_of(student)
        student.step(batches()[0], teacher.observe(batches()[0]), epoch=1)
        moved = differing(before, tensors_of(student))
        assert "/model/fc.weight" not in moved
        assert "/model/conv.weight" in moved

    def test_they_are_as_wide_as_the_features_on_either_side(self) -> None:
        student = student_of(StudentSpec(small_net(1), method=methods.Projector.Config()), small_teacher())
        assert student.connectors[0].projector.weight.shape == (12, 6)

    def test_their_first_weights_depend_on_the_seed_and_not_on_the_random_state(self) -> None:
        def first_weights(seed: int) -> dict[str, Tensor]:
            torch.rand(3)
            spec = StudentSpec(small_net(1), method=methods.Projector.Config())
            return tensors_of(student_of(spec, small_teacher(), seed=seed))

        assert differing(first_weights(0), first_weights(0)) == []
        assert "/connectors/0.projector.weight" in differing(first_weights(0), first_weights(1))

    def test_building_leaves_the_random_state_and_the_network_as_they_were(self) -> None:
        network = small_net(1, dropout=0.5)
        before, random_state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
        student_of(StudentSpec(network, method=methods.Projector.Config()), small_teacher())
        assert torch.equal(torch.get_rng_state(), random_state)
        assert differing(before, network.state_dict()) == []

    def test_the_frozen_copy_of_a_classifier_is_equal_and_remembers_nothing_of_what_it_is_asked(self) -> None:
        teacher = small_teacher()
        student = student_of(StudentSpec(small_net(1), method=methods.Projector.Config()), teacher)
        classifier = student.methods[0].method.context.teacher.classifier
        assert torch.equal(classifier.weight, teacher.model.module.fc.weight)
        assert not any(parameter.requires_grad for parameter in classifier.parameters())
        features = torch.rand(2, 12)
        kept = weakref.ref(features)
        classifier(features)
        del features
        assert kept() is None


class TestSpec:
    def test_weights_come_from_the_method_unless_they_are_given(self) -> None:
        default = student_of(StudentSpec(small_net(1), method=methods.KD.Config()), small_teacher())
        given = methods.KD.Config(weight=3.0, warmup_epochs=7)
        own = student_of(StudentSpec(small_net(1), method=given, task_weight=0.5), small_teacher())
        alone = student_of(StudentSpec(small_net(1)))
        assert (default.task_weight, default.methods[0].weight, default.methods[0].warmup_epochs) == (0.1, 0.9, 0)
        assert (own.task_weight, own.methods[0].weight, own.methods[0].warmup_epochs) == (0.5, 3.0, 7)
        assert (alone.task_weight, alone.methods) == (1.0, ())

    def test_a_row_is_named_after_methods_and_update(self) -> None:
        kd, dist = methods.KD.Config(), methods.DIST.Config()
        specs = {
            "alone": StudentSpec(small_net(1)),
            "kd": StudentSpec(small_net(1), kd),
            "dist+kd+dot": StudentSpec(small_net(1), [dist, kd], DOT.Config()),
            "mine": StudentSpec(small_net(1), kd, name="mine"),
        }
        assert [spec.row_name for spec in specs.values()] == list(specs)

    def test_two_students_of_one_name_are_asked_for_names(self) -> None:
        specs = [StudentSpec(small_net(1)), StudentSpec(small_net(2))]
        with pytest.raises(UserError, match=re.escape("two students are called 'alone'; give StudentSpec(name=...)")):
            trainer_by_hand(task=Classification(CLASSES), students=specs, sample=batches()[0])


class TestRefusals:
    def test_a_method_without_a_teacher(self) -> None:
        with pytest.raises(UserError, match="method 'kd' needs a teacher"):
            student_of(StudentSpec(small_net(1), method=methods.KD.Config()))

    def test_class_counts_that_differ_where_the_method_reads_teacher_logits(self) -> None:
        teacher = LiveTeacher(small_net(2, num_classes=7))
        expected = "method 'kd' reads the teacher's logits, but the teacher has 7 classes and the student 10; take a"
        with pytest.raises(UserError, match=expected):
            student_of(StudentSpec(small_net(1), method=methods.KD.Config()), teacher)

    def test_class_counts_may_differ_where_only_features_are_read(self) -> None:
        teacher = LiveTeacher(small_net(2, num_classes=7))
        feature_loss = methods.Projector.Config(kl_weight=0)
        student = student_of(StudentSpec(small_net(1), method=feature_loss), teacher)
        record = student.step(batches()[0], teacher.observe(batches()[0]), epoch=1)
        assert record.mean("distill").isfinite()

    def test_a_network_that_gives_no_logits(self) -> None:
        class Maps(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return images

        with pytest.raises(UserError, match=r"the teacher must return \(B,C\) logits, got shape \(2, 3, 8, 8\)"):
            student_of(StudentSpec(small_net(1), method=methods.KD.Config()), LiveTeacher(Maps()))

    def test_a_last_batch_of_one_with_a_batch_normalised_projector(self) -> None:
        settings = {"data": {"train_rows": "0:65"}, "rows": ["projector"]}
        assert refusal(tiny_recipe(settings)) == (
            "method 'projector' needs at least 2 images in every batch, but the smallest one here has 1 (65 images, "
            "data.batch_size 32); set data.drop_last=true or another data.batch_size"
        )
        without_last = tiny_recipe({**settings, "data": {"train_rows": "0:65", "drop_last": True}})
        check_rows(parts_of(without_last), rows_of(without_last))

    def test_a_batch_size_of_one_with_a_batch_normalised_projector(self) -> None:
        found = refusal(tiny_recipe({"data": {"batch_size": 1}, "rows": ["projector"]}))
        assert "needs at least 2 images in every batch, but the smallest one here has 1" in found

    @pytest.mark.parametrize(
        ("settings", "world", "words"),
        [
            ({}, World(), "1 image (Expected more than 1 value per channel"),
            ({"data": {"train_rows": "0:64"}}, World(), None),
            ({"data": {"train_rows": "0:65", "drop_last": True}}, World(), None),
            ({"data": {"train_rows": "0:66"}}, World(), None),
            ({"data": {"train_rows": "0:66"}}, World(0, 2), "(66 images, data.batch_size 32, 2 processes)"),
            (
                {"data": {"train_rows": "0:66"}, "accumulate": 2},
                World(),
                "(66 images, data.batch_size 32, accumulate 2)",
            ),
        ],
        ids=["one image", "no last batch", "drop_last", "two images", "two processes", "two parts"],
    )
    @pytest.mark.parametrize("role", ["student", "teacher"])
    def test_a_last_batch_of_one_with_a_batch_norm_on_one_pixel(
        self, role: str, settings: dict[str, Any], world: World, words: str | None
    ) -> None:
        one_pixel = nn.Sequential(nn.Conv2d(3, 6, 8), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, CLASSES))
        over = merged({"data": {"train_rows": "0:65"}, "rows": ["alone"]}, settings)
        recipe = tiny_recipe(merged(over, {"teacher": {"train_epochs": 1}} if role == "teacher" else {}))
        network = network_of(one_pixel, num_classes=CLASSES)
        components = replace(parts_of(recipe), world=world, **{f"{role}_network": network})
        before = {name: value.clone() for name, value in one_pixel.state_dict().items()}
        if words is None:
            check_rows(components, rows_of(recipe))
        else:
            with pytest.raises(UserError) as caught:
                check_rows(components, rows_of(recipe))
            assert str(caught.value).startswith(f"{role} Sequential cannot be trained on a batch of 1 image (Expected")
            assert words in str(caught.value)
            assert "set data.drop_last=true or another data.batch_size" in str(caught.value)
        assert differing(before, one_pixel.state_dict()) == []

    def test_a_teacher_that_is_not_trained_here_may_have_one(self) -> None:
        one_pixel = nn.Sequential(nn.Conv2d(3, 6, 8), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, CLASSES))
        recipe = tiny_recipe({"data": {"train_rows": "0:65"}, "rows": ["alone"]})
        components = replace(parts_of(recipe), teacher_network=network_of(one_pixel, num_classes=CLASSES))
        check_rows(components, rows_of(recipe))

    def test_dkd_on_two_classes(self, tmp_path: Path) -> None:
        for folder in ("train/cat", "train/dog", "val/cat", "val/dog"):
            (tmp_path / folder).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (8, 8), (40 * number, 0, 90)).save(tmp_path / folder / f"{number}.png")
        data = {"root": str(tmp_path), "train_rows": None, "val_rows": None}
        expected = (
            "method 'dkd' needs at least 3 classes, but the data has 2; take kd or dist, or tfkd without a teacher"
        )
        assert refusal(tiny_recipe({"data": data, "rows": ["dkd"]})) == expected

    def test_sizes_that_are_hardly_meant_are_spoken_of(self) -> None:
        assert size_notes(parts_of(tiny_recipe())) == []
        large = parts_of(tiny_recipe({"data": {"batch_size": 500}}))
        assert "data.batch_size 500 is more than the 80 training images: a step takes all of them" in large.data.notes
        assert size_notes(large) == []  # once is enough
        small = parts_of(tiny_recipe({"student": {"model": "timm:resnet10t", "weights": "none"}}))
        assert "timm:resnet10t halves its images down to 1/32 of their side" in size_notes(small)[0]
        assert "8 px" in size_notes(small)[0]

    def test_patches_that_leave_a_border_are_said(self) -> None:
        kwargs = {"patch_size": 3, "embed_dim": 12, "depth": 1, "num_heads": 2}
        over = {"student": {"model": "timm:vit_tiny_patch16_224", "kwargs": kwargs, "weights": "none"}}
        (note,) = size_notes(parts_of(tiny_recipe(over)))
        assert "cuts patches of 3 px, which do not fill 8 px: 2 px at the border are not seen" in note

    def test_a_split_that_is_not_there(self) -> None:
        with pytest.raises(UserError, match="digits has no test split"):
            parts_of(tiny_recipe()).eval_loader("test")

    @pytest.mark.parametrize(
        ("over", "message"),
        [
            ({"student": {"model": "timm:resnet180"}}, "timm has no model 'resnet180'"),
            ({"teacher": {"model": "cifar:resnet21"}}, "cifar has no model 'resnet21'"),
            ({"student": {"model": "cifar:resnet8", "weights": "lost.pt"}}, "weights 'lost.pt': there is no such file"),
        ],
    )
    def test_what_is_misspelt_or_lost_is_said_before_an_image_is_read(self, over: Any, message: str) -> None:
        with pytest.raises(UserError, match=re.escape(message)):
            parts_of(tiny_recipe({"data": {"root": "no such folder"}, **over}))

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
    def test_cuda_where_there_is_none(self) -> None:
        with pytest.raises(UserError, match="device: cuda, but torch finds no CUDA device here; set device=cpu"):
            parts_of(tiny_recipe({"device": "cuda"}))


class TestFromARecipe:
    def test_all_rows_of_a_seed_start_from_the_same_weights_and_another_seed_from_others(self) -> None:
        recipe = tiny_recipe({"student": DROPOUT_STUDENT, "rows": ["alone", "kd", "kd+dot", "projector"]})
        components = parts_of(recipe)
        first = [
            student.model.module.state_dict() for student in build_trainer(components, rows_of(recipe), 0).students
        ]
        assert all(differing(first[0], other) == [] for other in first[1:])
        other_seed = build_student(components, rows_of(recipe)[0], 1).model.module.state_dict()
        assert "head.weight" in differing(first[0], other_seed)

    def test_a_seeds_first_weights_do_not_depend_on_what_was_drawn_before(self) -> None:
        recipe = tiny_recipe()
        found = []
        for draws in (0, 5):
            torch.rand(draws)
            found.append(build_student(parts_of(recipe), rows_of(recipe)[0], 0).model.module.state_dict())
        assert differing(*found) == []

    def test_a_random_teacher_depends_on_the_first_seed_alone(self) -> None:
        weights = []
        for seeds in ([0], [0, 1], [1]):
            torch.rand(3)
            weights.append(parts_of(tiny_recipe({"seeds": seeds})).teacher_network.module.state_dict())
        assert differing(weights[0], weights[1]) == []
        assert "fc.weight" in differing(weights[0], weights[2])

    def test_the_batches_of_a_seed_are_its_own(self) -> None:
        components = parts_of(tiny_recipe())
        orders = [next(iter(components.train_loader(seed).epoch(1))).indices for seed in (0, 0, 1)]
        assert torch.equal(orders[0], orders[1])
        assert not torch.equal(orders[0], orders[2])
