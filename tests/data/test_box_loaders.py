from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from PIL import Image

from understudy.core.batch import Batch
from understudy.core.boxes import Boxes, BoxesByImage
from understudy.data.augment.boxes import BoxRendering, Shown, common_canvas, moved, padded_size, rendered
from understudy.data.loaders.boxes import BoxEvalLoader, BoxTrainLoader, grouped_order
from understudy.data.loaders.plan import Share
from understudy.data.sources.boxed import BoxedImage, BoxSource, box_source
from understudy.utils.errors import UserError

SIZES = [(40, 60), (60, 40), (30, 30), (50, 64), (40, 40)]  # height, width


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> BoxSource:
    """Five images of different sizes, each with one white box of 10 x 8 pixels at (12, 6)."""
    root = tmp_path_factory.mktemp("boxes")
    images = []
    for number, (height, width) in enumerate(SIZES):
        picture = Image.new("RGB", (width, height))
        picture.paste((255, 255, 255), (12, 6, 22, 14))
        picture.save(root / f"{number}.png")
        images.append(BoxedImage(f"{number}.png", (height, width), [[12, 6, 22, 14]], [number % 2]))
    return box_source(root, images)[0]


def train_loader(source: BoxSource, **settings: object) -> BoxTrainLoader:
    rendering = BoxRendering(shorter_sides=(32, 48, 64), longer_side=90)
    return BoxTrainLoader(source, **{"rendering": rendering, "batch_size": 2, "seed": 1, **settings})  # type: ignore[arg-type]


def equal(one: Batch, other: Batch) -> bool:
    tensors = ("boxes", "labels", "image", "sizes", "scale", "area")
    same = all(torch.equal(getattr(one.targets, name), getattr(other.targets, name)) for name in tensors)
    return torch.equal(one.images, other.images) and same


def test_boxes_move_with_their_image(source: BoxSource) -> None:
    for size, mirrored in (((80, 120), False), ((80, 120), True), ((40, 60), True)):
        image, boxes = rendered(source.image(0), source.target(0), size, mirrored=mirrored)
        x1, y1, x2, y2 = boxes.boxes[0].round().int().tolist()
        inside, outside = image[:, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2], image.clone()
        outside[:, y1 - 2 : y2 + 2, x1 - 2 : x2 + 2] = 0
        assert inside.min() > 200
        assert outside.max() < 50
        assert boxes.area.tolist() == [80]  # of the file
        assert boxes.in_files(boxes.boxes, 0)[0, 1].item() == pytest.approx(6)


def test_boxes_of_a_batch_move_as_those_of_each_image() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = 30 * torch.rand(6, 4, generator=generator)
    every = [
        Boxes.of_image(corners[:2], torch.tensor([3, 1]), (40, 60), crowd=torch.tensor([True, False])),
        Boxes.none((30, 30)),
        Boxes.of_image(corners[2:], torch.arange(4), (60, 41)),
    ]
    shown = [Shown((40, 60), (27, 40)), Shown((30, 30), (64, 64), True), Shown((60, 41), (90, 61), True)]
    by_image = BoxesByImage(Boxes.packed(every))
    found = moved(Boxes.packed([by_image.target(place) for place in range(3)]), shown)
    each = [
        rendered(torch.zeros(3, *one.file, dtype=torch.uint8), boxes, one.size, mirrored=one.mirrored)[1]
        for boxes, one in zip(every, shown, strict=True)
    ]
    expected = Boxes.packed(each)
    for field in fields(Boxes):
        assert torch.equal(getattr(found, field.name), getattr(expected, field.name)), field.name
    assert [by_image.size(place) for place in range(3)] == [(40, 60), (30, 30), (60, 41)]
    x1, _, x2, _ = (corners[2] * torch.tensor([61 / 41, 1.5] * 2)).tolist()
    assert found.boxes[2, [0, 2]].tolist() == pytest.approx([61 - x2, 61 - x1], rel=1e-6)


def test_sizes_follow_the_shorter_side_up_to_a_longest() -> None:
    rendering = BoxRendering(shorter_sides=(30, 60), longer_side=100)
    assert rendering.whole((40, 60)) == (60, 90)
    assert rendering.whole((40, 120)) == (33, 100)
    assert BoxRendering(shorter_sides=None).whole((41, 63)) == (41, 63)
    drawn = {rendering.drawn((40, 60), seed=0, view=view, index=0) for view in range(40)}
    assert drawn == {((30, 45), False), ((30, 45), True), ((60, 90), False), ((60, 90), True)}
    assert padded_size([(33, 100), (60, 90)]) == (64, 128)


def test_an_epoch_is_a_function_of_its_seed_and_number(source: BoxSource) -> None:
    loader = train_loader(source)
    first, again = list(loader.epoch(1)), list(train_loader(source, num_workers=1).epoch(1))
    assert len(first) == loader.steps_per_epoch == 2
    assert all(map(equal, first, again))
    assert equal(first[1], next(loader.epoch(1, start_step=1)))
    assert not equal(first[0], next(loader.epoch(2)))
    assert first[0].images.dtype == torch.float32
    assert first[0].images.max() <= 1


def test_processes_have_their_part_of_each_batch_at_the_size_of_the_whole_step(source: BoxSource) -> None:
    whole = list(train_loader(source, batch_size=3).epoch(1))
    parts = [list(train_loader(source, batch_size=3, share=Share(rank, 2)).epoch(1)) for rank in range(2)]
    for step, batch in enumerate(whole):
        images = torch.cat([part[step].images for part in parts])
        boxes = torch.cat([part[step].targets.boxes for part in parts])
        assert torch.equal(images, batch.images)
        assert torch.equal(boxes, batch.targets.boxes)


def test_where_batches_are_padded_differently_whole_epochs_repeat_with_their_views(source: BoxSource) -> None:
    live, repeating = train_loader(source, drop_last=False), train_loader(source, drop_last=False, num_views=2)
    epochs = [[*repeating.epoch(number)] for number in range(1, 5)]
    for number in (0, 1):
        same = zip(epochs[number], live.epoch(number + 1), epochs[number + 2], strict=True)
        assert all(equal(one, as_live) and equal(one, again) for one, as_live, again in same)
    assert [one.view for one in (epochs[0][0], epochs[1][0], epochs[2][0])] == [0, 1, 0]
    foreseen = [(tuple(batch.images.shape[2:]), len(batch.images)) for batch in epochs[1]]
    assert [*repeating.canvases(2)] == [*repeating.canvases(4)] == foreseen


def test_where_all_batches_are_padded_alike_views_repeat_in_other_batches(source: BoxSource) -> None:
    rendering = BoxRendering(shorter_sides=None, longer_side=64, within=(32, 32))
    loader = train_loader(source, rendering=rendering, num_views=1)
    first, second = ([*loader.epoch(number)] for number in (1, 2))
    assert {batch.images.shape[2:] for batch in (*first, *second)} == {(32, 32)}
    assert {batch.view for batch in (*first, *second)} == {0}
    assert [batch.indices.tolist() for batch in first] != [batch.indices.tolist() for batch in second]


def test_a_common_canvas_is_one_that_every_image_has_at_every_size_that_is_drawn() -> None:
    sizes = [(40, 60), (60, 40), (30, 30)]
    assert common_canvas(sizes, BoxRendering(shorter_sides=None)) is None
    assert common_canvas([(40, 60), (64, 33)], BoxRendering(shorter_sides=None)) == (64, 64)
    assert common_canvas([(40, 60)], BoxRendering(shorter_sides=(32, 40))) is None
    assert common_canvas([(40, 60), (50, 75)], BoxRendering(shorter_sides=(33, 40))) == (64, 64)


def test_evaluation_shows_every_image_once_and_says_how_it_was_scaled(source: BoxSource) -> None:
    loader = BoxEvalLoader(source, BoxRendering(shorter_sides=(80,), longer_side=200), batch_size=2)
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(5))
    for batch in batches:
        assert all(side % 32 == 0 for side in batch.images.shape[2:])
        there = batch.targets
        for number, one in enumerate(there.each()):
            found = there.in_files(one.boxes, number)
            torch.testing.assert_close(found, torch.tensor([[12.0, 6, 22, 14]]))


def test_an_image_that_cannot_be_read_gives_way_to_the_next(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"nothing")
    images = [BoxedImage(f"{number}.png", (32, 32), [[1, 1, 9, 9]], [0]) for number in range(3)]
    broken = box_source(tmp_path, images)[0]
    loader = train_loader(broken, batch_size=3)
    (batch,) = loader.epoch(1)
    assert len(batch.images) == 3
    assert 1 not in batch.indices.tolist()
    assert len(loader.skipped) == 1
    with pytest.raises(
        UserError, match=r"1 image cannot be read: .*1\.png.*what takes their place changes the padding"
    ):
        next(train_loader(broken, batch_size=3, num_views=1).epoch(1))
    evaluated = BoxEvalLoader(broken, BoxRendering(shorter_sides=None))
    assert [batch.indices.tolist() for batch in evaluated] == [[0, 2]]


def test_settings_that_leave_nothing_are_refused(source: BoxSource) -> None:
    with pytest.raises(UserError, match="no batch is left of 5 images: 6 a step"):
        train_loader(source, batch_size=6)
    with pytest.raises(UserError, match=r"no shorter side is longer than longer_side; got \(900,\) and 800"):
        BoxRendering(shorter_sides=(900,), longer_side=800)


def test_upright_images_and_others_fill_batches_of_their_own() -> None:
    order, upright = [4, 0, 3, 1, 6, 2, 5], [True, False, True, True, False, False, False]
    found = grouped_order(order, upright, 2)
    assert found == [4, 3, 0, 6, 2, 5, 1]
    assert sorted(found) == sorted(order)


def test_aspect_groups_are_the_same_for_any_number_of_processes(source: BoxSource) -> None:
    whole = list(train_loader(source, aspect_groups=True, drop_last=False).epoch(1))
    shares = [train_loader(source, aspect_groups=True, drop_last=False, share=Share(rank, 2)) for rank in range(2)]
    for batch, first, second in zip(whole, *(loader.epoch(1) for loader in shares), strict=False):
        assert batch.images.shape[2:] == first.images.shape[2:] == second.images.shape[2:]
        assert torch.equal(batch.indices, torch.cat([first.indices, second.indices]))
    is_upright = torch.tensor([height > width for height, width in SIZES])
    kinds = [set(is_upright[batch.indices].tolist()) for batch in whole[:2]]
    assert kinds == [{False}, {False}]  # one image of five is upright, and comes last
