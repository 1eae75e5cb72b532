"""`rows: local` and `group_size`: related rows as the papers' code has them, those of one GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.shared_steps import first_run, five_steps, recipe_of, too_far
from helpers.smallest_settings import OF_IMAGES
from helpers.two_processes import TwoProcesses
from understudy import Classification, Pairing, UserError, methods
from understudy.distributed.world import RankCounts, World
from understudy.methods import METHODS
from understudy.methods.base import Context, Method, TapShapes
from understudy.recipes.comparison import rows_of
from understudy.recipes.schema import merged
from understudy.runs.checks import check_rows
from understudy.runs.components import open_components
from understudy.training.loss import PassShare, WeightedMethod, combine_losses
from understudy.utils.seeding import RandomState

RELATED = sorted(name for name in OF_IMAGES if METHODS[name].rows == "related" and name != "crd")
EIGHT_ROWS = {"train_rows": "0:32", "batch_size": 8}  # no uneven batch


def built(config: Any, num_classes: int = 5) -> Method:
    shapes = TapShapes({}, num_classes=num_classes)
    return config.method(config, Context(student=shapes, teacher=shapes, num_classes=num_classes))


def drawn(num_rows: int, num_classes: int = 5) -> Pairing:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, num_rows, num_classes, generator=generator, dtype=torch.float64)
    return Pairing(student.requires_grad_(), teacher, torch.arange(num_rows) % num_classes)


def distilled(pairing: Pairing, config: Any) -> tuple[float, dict[str, float]]:
    """The distillation loss and the terms that `combine_losses` makes of a batch in one process."""
    task = torch.zeros((), dtype=torch.float64)
    part = PassShare(RankCounts((len(pairing.labels),)))
    shared, whole = combine_losses(
        task,
        pairing,
        [WeightedMethod(built(config), 2.0)],
        task_weight=1.0,
        epoch=1,
        part=part,
        random_state=RandomState(0),
    )
    assert shared.distill is not None
    assert whole.distill is not None
    assert shared.distill.item() == pytest.approx(whole.distill.item(), rel=1e-15)
    return shared.distill.item(), {name: value.item() for name, value in whole.terms.items()}


@pytest.mark.parametrize(("name", "share"), [("kd", 0.25), ("dist", 0.5)])
def test_a_loss_counts_by_the_share_of_the_rows_that_it_is_defined_on(name: str, share: float) -> None:
    """Rows taken each for itself by those of this process, related ones by the processes that compute the same."""
    student, teacher = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shared, whole = combine_losses(
        torch.ones((), dtype=torch.float64),
        Pairing(student_logits=student, teacher_logits=teacher, labels=torch.zeros(6, dtype=torch.int64)),
        [WeightedMethod(built(METHODS[name].Config()), 1.0)],
        task_weight=3.0,
        epoch=1,
        part=PassShare(RankCounts((6,)), task=0.125, independent=0.25, related=0.5),
        random_state=RandomState(0),
    )
    assert shared.distill is not None
    assert whole.distill is not None
    assert shared.distill.item() == pytest.approx(share * whole.distill.item())
    assert (shared.task.item(), whole.task.item()) == (0.375, 3.0)


class TestGroups:
    @pytest.mark.parametrize(("num_rows", "ends"), [(12, (4, 8, 12)), (11, (4, 8, 11)), (9, (4, 9)), (4, (4,))])
    def test_the_loss_is_the_mean_over_groups_by_hand(self, num_rows: int, ends: tuple[int, ...]) -> None:
        """A single row that is left over (9 = 4 + 4 + 1) joins the group before it: DIST relates two at least."""
        pairing, plain = drawn(num_rows), built(methods.DIST.Config())
        expected: dict[str, float] = {}
        for start, end in zip((0, *ends[:-1]), ends, strict=True):
            for name, value in plain(pairing.select(slice(start, end))).items():
                expected[name] = expected.get(name, 0.0) + value.item() * (end - start) / num_rows
        loss, terms = distilled(pairing, methods.DIST.Config(rows="local", group_size=4))
        assert {name: terms[f"dist.{name}"] for name in expected} == pytest.approx(expected, rel=1e-12)
        assert loss == pytest.approx(2 * sum(expected.values()), rel=1e-12)

    def test_a_group_of_the_whole_batch_changes_nothing(self) -> None:
        pairing = drawn(12)
        grouped, whole = (methods.DIST.Config(rows="local", group_size=12), methods.DIST.Config())
        (loss, terms), (expected, expected_terms) = distilled(pairing, grouped), distilled(pairing, whole)
        assert loss == pytest.approx(expected, rel=1e-12)
        assert terms == pytest.approx(expected_terms, rel=1e-12)

    @pytest.mark.parametrize("update", ["joint", "dot"])
    def test_one_process_with_groups_equals_two_with_that_many_rows_each(self, update: str, pair: TwoProcesses) -> None:
        local = {"data": {"train_rows": "0:320", "batch_size": 64}, "method": {"rows": "local"}}
        pair.start(five_steps, "dist", update, torch.float64, local)
        one = five_steps("dist", update, torch.float64, {**local, "method": {"rows": "local", "group_size": 32}})
        first, second = pair.finish()
        assert too_far(one, first, 1e-9) == {}
        assert all(torch.equal(tensor, second.state[name]) for name, tensor in first.state.items())
        assert too_far(five_steps("dist", update, torch.float64, {"data": local["data"]}), one, 1e-6) != {}


class TestDeclarations:
    @pytest.mark.parametrize(
        "method", [pytest.param(m, marks=() if m == "dist" else pytest.mark.slow) for m in RELATED]
    )
    def test_related_rows_are_related(self, method: str, pair: TwoProcesses, tmp_path: Path) -> None:
        """A method that takes its rows for themselves and says otherwise would be gathered for nothing."""
        # FT relates rows in its second run alone, by a batch norm.
        over = merged({"data": EIGHT_ROWS}, first_run("ft", "paraphraser", tmp_path) if method == "ft" else {})
        whole = five_steps(method, "joint", torch.float64, over)
        local, other = pair.call(
            five_steps, method, "joint", torch.float64, merged(over, {"method": {"rows": "local"}})
        )
        assert too_far(whole, local, 1e-6) != {}
        # Their batch norms have seen other rows, and still end alike: what is saved is no process's own.
        assert all(torch.equal(tensor, other.state[name]) for name, tensor in local.state.items())


class TestRefusals:
    def test_local_rows_of_a_method_that_relates_none(self) -> None:
        with pytest.raises(UserError, match=r"method\.rows.*'kd' takes every row for itself; leave it out"):
            recipe_of("kd", "joint", {"method": {"rows": "local"}})

    def test_groups_of_rows_that_are_not_local(self) -> None:
        with pytest.raises(UserError, match=r"method\.group_size +groups rows that are local; set rows: local, got 32"):
            recipe_of("dist", "joint", {"method": {"group_size": 32}})

    def test_a_group_of_one(self) -> None:
        with pytest.raises(UserError, match=r"method\.group_size +input.*greater than or equal to 2"):
            recipe_of("dist", "joint", {"method": {"rows": "local", "group_size": 1}})

    def test_local_rows_of_a_method_with_one_memory(self) -> None:
        with pytest.raises(UserError, match=r"method\.rows +crd keeps one memory of all processes' samples"):
            recipe_of("crd", "joint", {"method": {"rows": "local"}})

    def test_groups_that_tear_copies_apart(self) -> None:
        with pytest.raises(UserError, match=r"'sskd': groups of rows would tear the copies of an image apart"):
            checked("sskd", {"method": {"rows": "local", "group_size": 2}})

    @pytest.mark.parametrize(
        ("over", "smallest"),
        [
            ({"train_rows": "0:10"}, None),  # 8 + 2: one row on each process, gathered two
            ({"train_rows": "0:10", "rows": "local"}, r"smallest one here has 1 \(10 images, .*, 2 processes\)"),
            ({"train_rows": "0:8", "rows": "local", "accumulate": 2}, None),
            ({"train_rows": "0:8", "rows": "local", "accumulate": 3}, r"has 1 \(.*2 processes, accumulate 3\)"),
            ({"train_rows": "0:8", "accumulate": 3}, None),  # 1 + 1 of either process
            ({"train_rows": "0:9"}, None),  # the one row that is left has no step
        ],
    )
    def test_passes_with_too_few_rows(self, over: dict[str, Any], smallest: str | None) -> None:
        settings = {
            "data": {"train_rows": over["train_rows"], "batch_size": 8},
            "method": {"rows": over.get("rows", "all")},
            "accumulate": over.get("accumulate", 1),
        }
        world = World(rank=0, size=2)
        if smallest is None:
            checked("dist", settings, world)
            return
        with pytest.raises(UserError, match=r"'dist' needs at least 2 images in every batch, but the .*" + smallest):
            checked("dist", settings, world)

    def test_passes_with_too_few_rows_of_a_single_process(self) -> None:
        with pytest.raises(UserError, match=r"smallest one here has 1 \(8 images, data.batch_size 8, accumulate 5\)"):
            checked("dist", {"data": {"train_rows": "0:8"}, "accumulate": 5})


def checked(method: str, over: dict[str, Any], world: World | None = None) -> None:
    recipe = recipe_of(method, "joint", over)
    parts = open_components(recipe, allow_code=True, say=lambda text: None, world=world or World())
    assert isinstance(parts.task, Classification)
    check_rows(parts, rows_of(recipe))
