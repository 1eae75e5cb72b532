"""predict(): what a student, and its teacher, say of pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from understudy.core.detection import Detections
from understudy.data.sources.decoding import UNREADABLE, BadImageError, decoded, from_pil, printable, upright
from understudy.data.sources.folders import image_files
from understudy.data.sources.found import BadImages
from understudy.runs.classifiers import Classifier, open_classifier, open_teachers
from understudy.runs.folder import RunFolder
from understudy.tasks.pixel_views import classes_at_size
from understudy.utils.errors import UserError, nearest, shortened_repr
from understudy.utils.machine import num_cpus
from understudy.utils.text import plural
from understudy.utils.untrusted import given_path

__all__ = ["Answer", "Given", "Prediction", "predictions"]

BATCH_SIZE = 32
MOST_THREADS = 8  # that decode

Given = str | Path | Image.Image
Picture = tuple[str, Given]  # what it is called, and itself
Teachers = Mapping[str | None, Classifier]  # by the head that learns from each; None: the first


@dataclass(frozen=True, slots=True)
class Answer:
    """A class, and the probability that it was given; of a detector also where it is."""

    name: str
    probability: float
    box: tuple[float, float, float, float] | None = None  # x1, y1, x2, y2 in pixels of the picture


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is said of one picture.

    Attributes:
        image: its path, or "image 3" of pictures from Python.
        student: the likeliest classes, the likeliest first; empty where the picture could not be read. Of a segmenter
            the classes with most pixels, and their shares of them; of a detector the surest boxes, if there are any.
        teacher: likewise, of its teacher, which may find other boxes; None where that was not asked.
        further_teachers: likewise, of the teachers beside the first, by the head of the student that learns from each.
        mask: (H,W) uint8 the class of every pixel, of a segmenter; None of others.
        teacher_mask: likewise.
        problem: what was wrong with the picture; None where it was read.
        has_boxes: whether a detector answers.
        picture: (3,H,W) uint8 that its boxes are on; None of others.
    """

    image: str
    student: tuple[Answer, ...] = ()
    teacher: tuple[Answer, ...] | None = None
    further_teachers: Mapping[str, tuple[Answer, ...]] = field(default_factory=dict)
    problem: str | None = None
    mask: Tensor | None = field(default=None, repr=False, compare=False)
    teacher_mask: Tensor | None = field(default=None, repr=False, compare=False)
    has_boxes: bool = False
    picture: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str | None:
        """The likeliest class; None where the picture could not be read, or nothing was found on it."""
        return self.student[0].name if self.student else None


def predictions(
    student: str | Path | nn.Module,
    images: Given | Sequence[Given],
    *,
    topk: int = 5,
    teacher: bool | nn.Module = False,
    module: nn.Module | None = None,
    allow_code: bool = False,
    say: Callable[[str], None],
) -> Iterator[Prediction]:
    """What a student says of pictures, one after the other, each brought to its size as its evaluation did.

    Args:
        student: a run folder, a student's folder, an ONNX file of `understudy export`, or what `load_student` gives.
        images: files, folders (all images in them, at any depth) or PIL images; one or several.
        topk: so many of the likeliest classes, or of the surest boxes.
        teacher: True: the teacher of the run beside it, or all where it has several. A network: the teacher that Python
            handed over.
        module: for a student that was handed over in Python: a network that is built alike.
        allow_code: let a folder name a factory in your own code, which is then imported and called.
        say: is told what a person should know.

    Yields:
        One for each picture, in order; one that cannot be read says why, and does not stop the others.

    Raises:
        UserError: at once, no student, no images, or no teacher where one is asked for.
    """
    if isinstance(topk, bool) or not isinstance(topk, int) or topk < 1:
        raise UserError(f"topk must be a number of classes from 1 on, got {shortened_repr(topk)}")
    pictures = _pictures(images, say)
    classifier = open_classifier(student, module=module, allow_code=allow_code)
    _check_channels(classifier)
    if classifier.classes is None:
        say(f"{classifier.name} does not say what its classes are called; they are numbered from 0")
    beside = {} if teacher is False else _teachers(student, classifier, teacher, allow_code)
    return _each(pictures, classifier, beside, topk)


def _each(pictures: Sequence[Picture], classifier: Classifier, teachers: Teachers, topk: int) -> Iterator[Prediction]:
    batch_size = 1 if classifier.image_size is None else BATCH_SIZE
    rest = iter(pictures)
    with ThreadPoolExecutor(min(MOST_THREADS, num_cpus())) as pool:  # decoders let go of the interpreter lock
        while batch := list(islice(rest, batch_size)):
            read = list(pool.map(lambda picture: _read(picture[1], classifier), batch))
            yield from _of_batch(batch, read, classifier, teachers, topk)


def _teachers(
    student: str | Path | nn.Module, classifier: Classifier, teacher: bool | nn.Module, allow_code: bool
) -> Teachers:
    run = None if isinstance(student, nn.Module) else RunFolder(given_path(student, what="student"))
    if run is None or not run.is_run:
        raise UserError(f"{classifier.name} has no teacher beside it; give the run folder that it comes from")
    module = teacher if isinstance(teacher, nn.Module) else None
    return open_teachers(run, classifier, allow_code=allow_code, module=module)


def _check_channels(classifier: Classifier) -> None:
    if classifier.channels not in (1, 3):
        raise UserError(
            f"{classifier.name} takes images of {plural(classifier.channels, 'channel')}, which no image file tells; "
            "run it on tensors of your own"
        )


def _pictures(images: Given | Sequence[Given], say: Callable[[str], None]) -> list[Picture]:
    """All pictures that are meant, by name; a folder is all images in it.

    Raises:
        UserError: a path at which there is nothing, or no image at all.
    """
    if isinstance(images, str | Path | Image.Image):
        images = [images]
    if not isinstance(images, Sequence):
        raise UserError(f"images are paths or PIL images, or a list of them, got {shortened_repr(images)}")
    found: list[Picture] = []
    empty = []
    for number, one in enumerate(images):
        if isinstance(one, Image.Image):
            found.append((f"image {number}", one))
            continue
        if not isinstance(one, str | Path):
            raise UserError(f"images are paths or PIL images, got {shortened_repr(one)}")
        path = _existing(one)
        if not path.is_dir():
            found.append((printable(path), path))
            continue
        names, no_images = image_files(path)
        found += [(printable(path / name), path / name) for name in names]
        empty += [] if names else [printable(path)]
        if no_images:
            say(BadImages(no_images).left_out())
    if not found:
        raise UserError(
            f"{', '.join(empty) or 'the list of images'} holds no image; give image files, or folders of them"
        )
    for name in empty:
        say(f"{name} holds no image")
    return found


def _existing(text: str | Path) -> Path:
    path = given_path(text, what="image")
    if path.exists():
        return path
    close = nearest(path.name, os.listdir(path.parent)) if path.parent.is_dir() else None
    raise UserError(
        f"there is no image at {printable(path)}" + (f"; did you mean {printable(close)}?" if close else "")
    )


def _read(picture: Given, classifier: Classifier) -> Tensor | str:
    """(3,H,W) as the classifier takes it; what is wrong with a picture that cannot be read."""
    try:
        if isinstance(picture, Image.Image):
            image = upright(picture) if classifier.applies_exif else picture
            pixels = from_pil(image, classifier.greys)
        else:
            data = Path(picture).read_bytes()
            pixels = decoded(data, "", classifier.greys, applies_exif=classifier.applies_exif)
        prepared = classifier.prepared(pixels)
        return prepared.mean(0, keepdim=True) if classifier.channels == 1 else prepared
    except BadImageError as error:
        return str(error).removeprefix(": ")
    except UNREADABLE as error:
        return str(getattr(error, "strerror", None) or error)


def _of_batch(
    batch: Sequence[Picture], read: Sequence[Tensor | str], student: Classifier, teachers: Teachers, topk: int
) -> Iterator[Prediction]:
    good = [image for image in read if isinstance(image, Tensor)]
    by_student = iter(_answers(student, good, topk))
    by_teacher = {}
    for head, teacher in teachers.items():
        seen = (_read(one, teacher) for (_, one), image in zip(batch, read, strict=True) if isinstance(image, Tensor))
        by_teacher[head] = iter(_answers(teacher, (image for image in seen if isinstance(image, Tensor)), topk))
    for (name, _), image in zip(batch, read, strict=True):
        if isinstance(image, str):
            silent: dict[str, tuple[Answer, ...]] = {head: () for head in by_teacher if head is not None}
            yield Prediction(name, further_teachers=silent, problem=image, has_boxes=student.finds is not None)
        else:
            said, mask = next(by_student)
            beside = {head: next(answers) for head, answers in by_teacher.items()}
            taught, teacher_mask = beside.pop(None, (None, None))
            picture = None if student.finds is None else (255 * image).round().to(torch.uint8)
            yield Prediction(
                name,
                said,
                taught,
                {head: answers for head, (answers, _) in beside.items() if head is not None},
                mask=mask,
                teacher_mask=teacher_mask,
                has_boxes=picture is not None,
                picture=picture,
            )


def _answers(
    classifier: Classifier, images: Iterable[Tensor], topk: int
) -> list[tuple[tuple[Answer, ...], Tensor | None]]:
    """The likeliest classes of each image, or those with most of its pixels, and the class of every pixel then."""
    stacked = list(images)
    if not stacked:
        return []
    if classifier.finds is not None:
        return [(_boxes(classifier, classifier.finds(image), topk), None) for image in stacked]
    logits = classifier.logits(torch.stack(stacked)).float()
    masks: list[Tensor | None] = [None] * len(stacked)
    if logits.ndim == 4:
        said = classes_at_size(logits, stacked[0].shape[1:], align_corners=classifier.align_corners)  # (B,H,W)
        counts = torch.stack([one.flatten().bincount(minlength=logits.shape[1]) for one in said])
        probabilities = counts / said[0].numel()
        masks = list(said.to(torch.uint8))
        topk = min(topk, int((counts > 0).sum(dim=1).max()))
    else:
        probabilities = logits.softmax(1)
    values, places = probabilities.topk(min(topk, probabilities.shape[1]))
    answers = [
        tuple(Answer(classifier.class_name(place), value) for place, value in zip(*row, strict=True))
        for row in zip(places.tolist(), values.tolist(), strict=True)
    ]
    return list(zip(answers, masks, strict=True))


def _boxes(classifier: Classifier, found: Detections, topk: int) -> tuple[Answer, ...]:
    """The surest boxes."""
    rows = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
    return tuple(Answer(classifier.class_name(label), score, tuple(box)) for label, score, box in islice(rows, topk))
