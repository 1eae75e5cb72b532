"""Which query of a detector stands for which labelled box: the assignment of least cost."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from understudy.utils.errors import UserError

__all__ = ["assigned"]

CLASS_COST, CORNER_COST, OVERLAP_COST = 1.0, 5.0, 2.0  # DETR's, Carion et al. 2020, section 3.1 and appendix


def assigned(sure: Tensor, boxes: Tensor, labels: Sequence[Tensor], labelled: Sequence[Tensor]) -> list[Tensor]:
    """By image, the (g,) queries that stand for its g boxes, in the order of the boxes, none of them twice.

    Kuhn's Hungarian method on the cost of DETR: less the probability of the box's class, the L1 distance of centres
    and sides, and generalised overlap.

    Args:
        sure: (B,Q,K) probabilities by class.
        boxes: (B,Q,4) centre, width and height as shares of the image's sides.
        labels: by image, (g,) classes.
        labelled: by image, (g,4) likewise.

    Raises:
        UserError: scipy is not installed, or an image has more boxes than there are queries.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise UserError(
            "detectors with queries need scipy to match boxes; install it with: pip install 'understudy[hf]'"
        ) from None
    found = []
    for of_image, where, classes, wanted in zip(sure, boxes, labels, labelled, strict=True):
        if len(classes) > len(where):
            raise UserError(
                f"an image has {len(classes)} boxes, and the detector {len(where)} queries to find them with; take one "
                "with more (num_queries)"
            )
        corners, wanted_corners = (box_convert(one.float(), "cxcywh", "xyxy") for one in (where, wanted))
        cost = (
            CORNER_COST * torch.cdist(where.float(), wanted.float(), p=1)
            - CLASS_COST * of_image[:, classes].float()
            - OVERLAP_COST * generalized_box_iou(corners, wanted_corners)
        )  # (Q,g)
        queries, places = linear_sum_assignment(cost.nan_to_num(1e5).cpu().numpy())
        order = torch.from_numpy(places).argsort()
        found.append(torch.from_numpy(queries)[order].to(where.device))
    return found
