"""Losses of segmentation and detection students: on maps, pixel by pixel, channel by channel, or where objects are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.methods.base import at_least_float32, comparable_logits
from understudy.utils.errors import UserError, unknown_name

__all__ = [
    "ChannelNorm",
    "PatchForm",
    "anchor_boxes",
    "cwd_loss",
    "fgfi_loss",
    "fgfi_mask",
    "refuse_all_but_maps",
    "skd_pairwise_loss",
    "skd_pixelwise_loss",
]

ChannelNorm = Literal["channel", "spatial", "channel_mean", "none"]
PatchForm = Literal["share", "cirkd"]


def cwd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    norm_type: ChannelNorm = "channel",
    divergence: Literal["kl", "mse"] = "kl",
    temperature: float = 4.0,
) -> Tensor:
    """Channel-wise distillation: the places that each channel attends to.

    Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021, eq. 3: T^2 * KL between
    softmaxes over the H * W positions of each channel. The released code's other norms: "spatial" is a softmax over
    channels, "channel_mean" a channel's mean, "none" the map as it is. T is 1 under "mse".

    Differs from: "none" in the released code reads only the first image of a batch; here all. Their logarithm of a
    softmax is minus infinity at peaks beyond 88 * T in float32; here it stays in log space.

    Args:
        student: (N, C, H, W) logits or features; half types are raised to float32, wider ones stay.
        teacher: the same shape, no gradient flows into it.
        norm_type: how a map is normalised; "channel_mean" and "none" leave no distributions, hence "mse" only.
        divergence: "kl" from teacher to student, or "mse", the squared difference.
        temperature: T > 0; 4 in the authors' command.

    Returns:
        Scalar sum, divided by N * C ("channel", "channel_mean") or by N * H * W. The authors weigh it by 3.
    Raises:
        UserError: the shapes differ, an unknown norm or divergence, or "kl" of what is no distribution.
    """
    student, teacher = comparable_logits(student, teacher)
    refuse_all_but_maps("cwd", student, teacher)
    num_images, num_channels, height, width = student.shape
    if norm_type not in get_args(ChannelNorm):
        raise UserError(f"norm_type {norm_type!r} is {unknown_name(norm_type, get_args(ChannelNorm))}")
    count = num_images * (num_channels if norm_type in ("channel", "channel_mean") else height * width)
    if divergence == "kl":
        log_student, log_teacher = (_log_attention(side / temperature, norm_type) for side in (student, teacher))
        return F.kl_div(log_student, log_teacher, reduction="sum", log_target=True) * temperature**2 / count
    if divergence == "mse":
        return F.mse_loss(_normalised(student, norm_type), _normalised(teacher, norm_type), reduction="sum") / count
    raise UserError(f"divergence {divergence!r} is {unknown_name(divergence, ['kl', 'mse'])}")


def _log_attention(maps: Tensor, norm_type: ChannelNorm) -> Tensor:
    if norm_type == "channel":
        return F.log_softmax(maps.flatten(2), dim=2)
    if norm_type == "spatial":
        return F.log_softmax(maps, dim=1)
    raise UserError(f"cwd with norm_type {norm_type!r} compares no distributions; set divergence='mse'")


def _normalised(maps: Tensor, norm_type: ChannelNorm) -> Tensor:
    if norm_type == "channel_mean":
        return maps.mean(dim=(2, 3))
    return maps if norm_type == "none" else _log_attention(maps, norm_type).exp()


def skd_pixelwise_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Structured distillation, pixel by pixel: cross-entropy with the teacher's probabilities.

    Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019, eq. 1; T = 1.

    Args:
        student_logits: (N, C, H, W); half types are raised to float32, wider ones stay.
        teacher_logits: the same shape, no gradient flows into it.

    Returns:
        Scalar in nats: sum over images and classes, mean over the H * W positions, as in the released code, so it
        grows with N. Bounded below by the teacher's entropy. The authors weigh it by 10.

    Raises:
        UserError: the shapes differ.
    """
    student_logits, teacher_logits = comparable_logits(student_logits, teacher_logits)
    refuse_all_but_maps("skd", student_logits, teacher_logits)
    crossed = F.softmax(teacher_logits, dim=1) * F.log_softmax(student_logits, dim=1)
    return -crossed.sum() / crossed[0, 0].numel()


def skd_pairwise_loss(student: Tensor, teacher: Tensor, *, scale: float = 0.5, form: PatchForm = "share") -> Tensor:
    """Structured distillation, pair by pair: how alike any two patches of a map are.

    Liu et al., CVPR 2019, eq. 2: maps are max-pooled to patches of floor(H * scale) x floor(W * scale), at least 1,
    the last ones may be smaller; then the squared difference of the patches' cosine similarities.

    Differs from: nothing in value. As in the released code the norms carry no gradient, so the student's is not
    orthogonal to its features. "cirkd" is the form of CIRKD's code: patches of 2 x 2 positions whatever the size of
    the map, so (H W / 4)^2 pairs, and norms that carry gradient.

    Args:
        student: (N, D, H, W); half types are raised to float32, wider ones stay.
        teacher: (N, D', H, W), any number of channels; no gradient flows into it.
        scale: size of a patch as a share of the map; not used by "cirkd".
        form: whose patches and norms.

    Returns:
        Scalar mean over images and over all pairs of patches. The authors weigh it by 1, CIRKD's code by 10.
    Raises:
        UserError: maps of different size, or an unknown form.
    """
    refuse_all_but_maps("skd", student, teacher)
    if student.shape[2:] != teacher.shape[2:] or len(student) != len(teacher):
        raise UserError(
            f"skd compares the same patches of both maps, but the student's are {tuple(student.shape)} and the "
            f"teacher's {tuple(teacher.shape)}; interpolate to one size first"
        )
    if form not in get_args(PatchForm):
        raise UserError(f"form {form!r} is {unknown_name(form, get_args(PatchForm))}")
    height, width = student.shape[2:]
    patch = (max(1, int(height * scale)), max(1, int(width * scale))) if form == "share" else (2, 2)
    return F.mse_loss(_similarities(student, patch, form), _similarities(teacher.detach(), patch, form))


def _similarities(maps: Tensor, patch: tuple[int, int], form: PatchForm) -> Tensor:
    nodes = F.max_pool2d(at_least_float32(maps), patch, ceil_mode=True).flatten(2)  # (N, D, nodes)
    if form == "cirkd":
        nodes = F.normalize(nodes, dim=1)
    else:
        norms: Tensor = torch.linalg.vector_norm(nodes.detach(), dim=1, keepdim=True)
        nodes = nodes / (norms + 1e-8)
    return nodes.mT @ nodes


def refuse_all_but_maps(what: str, *tensors: Tensor) -> None:
    """Refuse tensors that are no maps (N, C, H, W).

    Raises:
        UserError: naming what wants maps, and the shapes.
    """
    if any(tensor.ndim != 4 for tensor in tensors):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise UserError(f"{what} takes maps (N, C, H, W), but got {shapes}; lay out tokens (N, L, C) as a map first")


def anchor_boxes(
    scales: Sequence[float], ratios: Sequence[float], *, base_size: int = 16, like: Tensor | None = None
) -> Tensor:
    """Anchors around one position, (ratios * scales, 4) as x1, y1, x2, y2 in pixels, ends included.

    Ren et al., "Faster R-CNN", NeurIPS 2015, as in py-faster-rcnn: ratio is height / width, sides are rounded to
    whole pixels before they are scaled, scales vary fastest, all are centred on a box of base_size at the origin.
    """
    aspect = torch.as_tensor(ratios, dtype=torch.float64)
    widths = (base_size**2 / aspect).sqrt().round()
    sides = torch.stack([widths, (widths * aspect).round()], dim=1)  # (ratios, 2)
    scaled = (sides[:, None] * torch.as_tensor(scales, dtype=torch.float64)[:, None]).flatten(0, 1)
    centre = (base_size - 1) / 2
    anchors = torch.cat([centre - (scaled - 1) / 2, centre + (scaled - 1) / 2], dim=1)
    return anchors if like is None else anchors.to(like)


def fgfi_mask(
    boxes: Tensor,
    *,
    height: int,
    width: int,
    stride: int = 16,
    scales: Sequence[float] = (4, 8, 16, 32),
    ratios: Sequence[float] = (0.5, 1, 2),
    threshold: float = 0.5,
) -> Tensor:
    """How many anchors at each position are near an object: the places worth imitating.

    Wang et al., "Distilling Object Detectors with Fine-grained Feature Imitation", CVPR 2019, section 3.2: an anchor
    counts for a box where their overlap exceeds threshold times the best overlap of any anchor with that box.
    Anchors across the border count as well; overlaps are of boxes whose last pixel is included.

    Args:
        boxes: (B, K, 4 or more) x1, y1, x2, y2 in pixels of the image; the first row of four zeros ends an image's
            list, and a box of one pixel is near nothing.
        height: of the feature map.
        width: of the feature map.
        stride: pixels between two positions of the map.
        scales: of the anchors, in units of 16 pixels.
        ratios: of the anchors, height / width.
        threshold: the paper's psi.

    Returns:
        (B, H, W) counts of anchors, int64, summed over boxes; where it is above 0 the mask is 1.
    """
    corners = at_least_float32(boxes[..., :4])
    anchors = anchor_boxes(scales, ratios, like=corners)
    shifts = corners.new_zeros(height, width, 1, 4)
    shifts[..., 0::2] = torch.arange(width, device=boxes.device)[None, :, None, None] * stride
    shifts[..., 1::2] = torch.arange(height, device=boxes.device)[:, None, None, None] * stride
    placed = (anchors + shifts).flatten(0, 2)  # (H * W * A, 4)
    is_box = (corners != 0).any(dim=2).cumprod(dim=1).bool()  # (B, K)
    is_box = is_box & (_sides(corners) != 1).any(dim=2)
    overlaps = _overlaps(placed, corners) * is_box[..., None]  # (B, K, H * W * A)
    is_near = overlaps > threshold * overlaps.amax(dim=2, keepdim=True)
    return is_near.sum(dim=1).reshape(len(boxes), height, width, len(anchors)).sum(dim=3)


def _sides(boxes: Tensor) -> Tensor:
    return boxes[..., 2:] - boxes[..., :2] + 1  # the last pixel belongs to the box


def _overlaps(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union, (B, K, anchors)."""
    boxes = boxes[:, :, None]  # (B, K, 1, 4)
    low, high = torch.maximum(anchors[:, :2], boxes[..., :2]), torch.minimum(anchors[:, 2:], boxes[..., 2:])
    shared = (high - low + 1).clamp(min=0).prod(dim=-1)
    return shared / (_sides(anchors).prod(dim=-1) + _sides(boxes).prod(dim=-1) - shared)


def fgfi_loss(adapted: Tensor, teacher: Tensor, counts: Tensor) -> Tensor:
    """Squared distance of features at the positions of the mask.

    Wang et al., CVPR 2019, eq. 2: sum over positions and channels, divided by twice the number of positions.

    Args:
        adapted: (B, D, H, W) student features through a 3x3 convolution and a ReLU; half types are raised to float32.
        teacher: (B, D, H, W), no gradient flows into it.
        counts: (B, H, W) from `fgfi_mask`; a position is in where it is above 0.

    Returns:
        Scalar; the authors weigh it by 0.01. 0 where no position is in; the released code then is NaN.

    Raises:
        UserError: the shapes do not fit.
    """
    refuse_all_but_maps("fgfi", adapted, teacher)
    if adapted.shape != teacher.shape or counts.shape != adapted[:, 0].shape:
        raise UserError(
            f"fgfi needs maps (B, D, H, W) and counts (B, H, W), but got student {tuple(adapted.shape)}, teacher "
            f"{tuple(teacher.shape)} and counts {tuple(counts.shape)}; adapt the student to the teacher's channels"
        )
    is_in = (counts > 0)[:, None]
    distance = (at_least_float32(adapted) - at_least_float32(teacher.detach())).square()
    return (distance * is_in).sum() / (2 * is_in.sum().clamp(min=1))
