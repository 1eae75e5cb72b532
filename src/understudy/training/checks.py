"""First-batch checks: the first Pairing of each form that a student's methods are given, and its size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from understudy.core.batch import MAIN, Pairing
from understudy.core.labels import check_labels
from understudy.core.probabilities import are_probabilities
from understudy.distributed.world import RankCounts
from understudy.methods.base import Method, Need
from understudy.training.loss import WeightedMethod, is_on_local_rows, pairing_of
from understudy.utils.errors import UserError
from understudy.utils.text import plural

__all__ = ["FirstPairings", "check_num_rows", "check_pairing", "form_of", "refuse_to_tear_copies", "too_few_images"]


def check_pairing(pairing: Pairing, methods: Iterable[Method]) -> None:
    """Refuse what the methods could not make sense of; inside them, a Pairing is trusted.

    Reads values back from the device, so it is called for the first batch of a form only (`form_of`).

    Raises:
        UserError: naming what is wrong, the method that needs it otherwise, and the way out.
    """
    check_labels(pairing.labels, pairing.student_logits.shape[1])
    if are_probabilities(pairing.student_logits):
        raise UserError(
            "the student ends in a softmax: it gives probabilities where the losses expect logits, and would learn "
            "next to nothing; leave the softmax out of its forward, and take it of what the trained network gives"
        )
    for method in methods:
        if pairing.activation not in method.activations:
            raise UserError(
                f"method {method.name!r} compares probabilities that sum to 1, and here every class is a "
                f"{pairing.activation} of its own, as in one-stage detectors; take kd or dist, or a method on maps "
                "(fgfi, fitnet, cwd)"
            )
        for need in sorted(method.needs_for(method.config)):
            _check_need(pairing, method, need)
        _check_features(pairing, method.name)


class FirstPairings:
    """The checks of a student's batches: every form of a Pairing when it comes first, the number of rows always."""

    def __init__(self) -> None:
        self._seen: set[tuple[str | bool, ...]] = set()  # names and forms that the methods can make sense of

    def check(self, pairings: Mapping[str, Pairing], methods: Sequence[WeightedMethod], rows: RankCounts) -> None:
        """Refuse what the methods could not make sense of, or too few rows of it.

        Args:
            pairings: of a pass, by name.
            methods: that read them.
            rows: images of the pass, over the processes.

        Raises:
            UserError: as `check_pairing` and `check_num_rows`; a Pairing that is not there.
        """
        for name in dict.fromkeys([MAIN, *(weighted.reads for weighted in methods)]):
            pairing = pairing_of(pairings, name)
            form: tuple[str | bool, ...] = (name, *form_of(pairing))
            if form not in self._seen:
                check_pairing(pairing, [weighted.method for weighted in methods if weighted.reads == name])
                self._seen.add(form)
        for weighted in methods:
            per_image = max(1, len(pairing_of(pairings, weighted.reads).student_logits) // max(1, rows.mine))
            is_local = is_on_local_rows(weighted.method.config)
            check_num_rows(weighted.method, per_image * (rows.mine if is_local else sum(rows.counts)))


def form_of(pairing: Pairing) -> tuple[bool, ...]:
    """What a batch may have or lack without being another kind of data: mixed labels, indices, copies."""
    optional = (pairing.teacher_logits, pairing.indices, pairing.copies)
    return (pairing.labels.ndim == 2, *(value is None for value in optional))


def check_num_rows(method: Method, num_rows: int) -> None:
    """Refuse a pass of fewer rows than a method is defined on.

    Raises:
        UserError: naming the method and the way out.
    """
    needed = method.min_rows(method.config)
    if num_rows < needed:
        raise UserError(
            f"method {method.name!r} needs at least {needed} images in every batch, and this one (or its part, with "
            f"accumulate) has {num_rows}; leave out an epoch's last batch (drop_last=True), or take another batch size"
        )


def _check_need(pairing: Pairing, of: Method, need: Need) -> None:
    method = of.name
    if need == "teacher_logits" and pairing.teacher_logits is None:
        raise UserError(
            f"method {method!r} reads the teacher's logits, and there is no teacher, or a bank of maps, or a detector "
            "of another family, which cannot be asked about the student's boxes; take one of its family, or methods on "
            "maps alone"
        )
    if need == "indices" and pairing.indices is None:
        raise UserError(
            f"method {method!r} keeps a memory of the training samples, but this loader of (images, labels) does not "
            "say which samples are in a batch; use understudy.distill, or a loader of understudy.Batch(images=..., "
            "targets=..., indices=...)"
        )
    if need == "indices" and pairing.indices is not None and int(pairing.indices.max()) >= of.context.num_train:
        raise UserError(
            f"method {method!r} remembers {of.context.num_train} training samples, but a batch has number "
            f"{int(pairing.indices.max())}; give all labels as train_labels, and indices from 0 on"
        )
    if need == "label_map" and "labels" not in pairing.maps:
        raise UserError(f"method {method!r} needs the class of each pixel, which only segmentation knows")
    if need == "object_masks" and not any(name.startswith("weights.") for name in pairing.maps):
        raise UserError(f"method {method!r} needs masks of objects, which only detection makes")
    if need == "copies" and pairing.copies is None:
        raise UserError(f"method {method!r} compares rotated copies of each image; set data.copies=rotations")
    if need == "pairs" and (pairing.copies is None or int(pairing.copies.max()) != 1):
        raise UserError(
            f"method {method!r} compares two views of each image; set data.copies=pairs, or give batches as "
            "understudy.Batch(images=..., targets=..., copies=...), copies 0 for the first view and 1 for the second"
        )
    if need == "hard_labels" and pairing.labels.ndim == 2:
        raise UserError(f"method {method!r} needs one class for each image, but labels are mixed here; turn Mixup off")


def _check_features(pairing: Pairing, method: str) -> None:
    rows = len(pairing.student_logits)
    sides = {"student": pairing.student_features, "teacher": pairing.teacher_features}
    for side, features in sides.items():
        for tap, feature in features.items():
            if len(feature) != rows:
                raise UserError(
                    f"method {method!r}: the {side}'s {tap!r} has {len(feature)} rows in a batch of {rows}; tap a "
                    "module whose output keeps the batch as its first axis"
                )
    seen: dict[str, Tensor] = dict(pairing.teacher_features)
    if pairing.teacher_logits is not None:
        seen["logits"] = pairing.teacher_logits
    for tap, feature in seen.items():
        if not bool(feature.isfinite().all()):
            raise UserError(
                f"method {method!r}: the teacher's {tap} is not finite on the first batch; are its weights whole, and "
                "do the images have the range and normalisation it was trained with?"
            )


def too_few_images(student: str, num_images: int, problem: str) -> str:
    """What to say of a batch that is too small for the network itself."""
    images = plural(num_images, "image")
    return (
        f"student {student} cannot be trained on a batch of {images} ({problem}); leave out an epoch's last batch "
        "(drop_last=True), or take another batch size"
    )


def refuse_to_tear_copies(student: str, methods: Iterable[Method], *, accumulate: int) -> None:
    """Refuse settings that divide a batch in which several copies of an image belong together.

    Raises:
        UserError: passes, or groups of rows.
    """
    grouped = [method.name for method in methods if method.config.group_size is not None]
    if accumulate > 1 or grouped:
        what = f"accumulate={accumulate}" if accumulate > 1 else f"group_size of method {grouped[0]!r}"
        raise UserError(f"student {student}: {what} would tear the copies of an image apart; leave it out")
