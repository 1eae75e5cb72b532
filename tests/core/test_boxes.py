from __future__ import annotations

import torch

from understudy.core.boxes import Boxes, imitation_masks


def boxes_at(*corners: tuple[float, float, float, float], label: int = 0, crowd: bool = False) -> Boxes:
    count = len(corners)
    crowds = torch.full((count,), crowd)
    return Boxes.of_image(torch.tensor(corners), torch.full((count,), label), (16, 24), crowd=crowds)


def test_images_with_and_without_boxes_are_packed_and_taken_apart_again() -> None:
    images = [boxes_at((0, 0, 4, 4), (1, 1, 2, 2)), Boxes.none((8, 8)), boxes_at((5, 5, 9, 9), label=2)]
    packed = Boxes.packed(images)
    assert packed.image.tolist() == [0, 0, 2]
    assert packed.num_images == 3
    for one, again in zip(images, packed.each(), strict=True):
        assert torch.equal(one.boxes, again.boxes)
        assert torch.equal(one.image, again.image)
    assert packed.sizes.tolist() == [[16, 24], [8, 8], [16, 24]]
    assert packed[1:].image.tolist() == [1]
    assert packed[1:].sizes.tolist() == [[8, 8], [16, 24]]
    assert len(packed[1:2].boxes) == 0


def test_crowds_are_not_learnt() -> None:
    packed = Boxes.packed([boxes_at((0, 0, 4, 4)), boxes_at((0, 0, 9, 9), crowd=True)])
    assert packed.to_learn().image.tolist() == [0]
    assert packed.to_learn().num_images == 2


def test_a_mask_marks_every_image_where_its_own_boxes_are() -> None:
    corners = torch.tensor([[8.0 * x, 8.0 * y, 8.0 * x + 8, 8.0 * y + 8] for y in range(2) for x in range(3)])
    packed = Boxes.packed([boxes_at((0, 0, 8, 8), (16, 8, 24, 16)), Boxes.none((8, 8)), boxes_at((8, 0, 24, 8))])
    (mask,) = imitation_masks(packed, [corners], [(2, 3)])
    assert mask.int().tolist() == [[[1, 0, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]], [[0, 1, 1], [0, 0, 0]]]


def test_an_anchor_counts_beyond_a_share_of_the_best_overlap_on_its_level() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 8], [0.0, 0, 10, 4]])  # overlaps 1, 0.8 and 0.4
    marked = [
        imitation_masks(boxes_at((0, 0, 10, 10)), [anchors], [(1, 3)], threshold=threshold)[0].sum().item()
        for threshold in (0.3, 0.5, 0.9)
    ]
    assert marked == [3, 2, 1]
    (far,) = imitation_masks(boxes_at((50, 50, 60, 60)), [anchors], [(1, 3)])
    assert not far.any()
