"""Pictures with the boxes that a detector found, for `understudy predict --boxes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zlib import crc32

from PIL import Image, ImageDraw, ImageFont

from understudy.cli.written_pictures import PictureFolder
from understudy.runs.predict import Answer, Prediction
from understudy.utils.errors import UserError
from understudy.utils.untrusted import visible

__all__ = ["write_boxes"]

_COLOURS = ("#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#D55E00", "#F0E442", "#3B82C4", "#B58CFF")
_TEXT_SHARE = 0.03  # of the picture's shorter side
_TEXT_SIZES = (10, 28)  # pixels


def write_boxes(prediction: Prediction, folder: PictureFolder) -> None:
    """Write the picture with its boxes, their classes and how sure each is, as a PNG of the picture's name.

    With a teacher's the picture is there twice: the student's boxes at the left, the teacher's at the right.

    Raises:
        UserError: the student is no detector, or as `PictureFolder.write`.
    """
    if not prediction.has_boxes or prediction.picture is None:
        instead = "" if prediction.mask is None else " but a segmenter: --masks FOLDER"
        raise UserError(f"--boxes: {prediction.image} has no boxes; its student is no detector{instead}")
    picture = Image.fromarray(prediction.picture.permute(1, 2, 0).contiguous().numpy())
    image = _drawn(picture, prediction.student)
    if prediction.teacher is not None:
        image = _side_by_side({"student": image, "teacher": _drawn(picture, prediction.teacher)})
    folder.write(image, prediction.image)


def _drawn(picture: Image.Image, answers: Sequence[Answer]) -> Image.Image:
    """The picture with these boxes."""
    image, size = picture.copy(), _text_size(picture)
    draw = ImageDraw.Draw(image)
    for answer in reversed(answers):  # the surest lies on top
        _draw(draw, answer, ImageFont.load_default(size), width=max(1, size // 7))
    return image


def _text_size(picture: Image.Image) -> int:
    least, most = _TEXT_SIZES
    return max(least, min(most, round(_TEXT_SHARE * min(picture.size))))


def _side_by_side(pictures: Mapping[str, Image.Image]) -> Image.Image:
    """Pictures of one size with their captions above them."""
    first = next(iter(pictures.values()))
    size = _text_size(first)
    width, top, gap = first.width, size + 8, size
    whole = Image.new("RGB", (len(pictures) * (width + gap) - gap, top + first.height), "white")
    draw = ImageDraw.Draw(whole)
    for place, (caption, picture) in enumerate(pictures.items()):
        left = place * (width + gap)
        draw.text((left + 2, 2), caption, fill="black", font=ImageFont.load_default(size))
        whole.paste(picture, (left, top))
    return whole


def _draw(
    draw: ImageDraw.ImageDraw, answer: Answer, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, *, width: int
) -> None:
    assert answer.box is not None, "a detector's answers have boxes"
    x1, y1, x2, y2 = answer.box
    colour = _COLOURS[crc32(answer.name.encode("utf-8", errors="replace")) % len(_COLOURS)]
    draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=width)
    text = f"{visible(answer.name)} {100 * answer.probability:.0f} %"
    try:
        _, _, right, bottom = draw.textbbox((0, 0), text, font=font)
    except UnicodeError:  # a font of few letters, where FreeType is not there
        text = text.encode("ascii", errors="replace").decode()
        _, _, right, bottom = draw.textbbox((0, 0), text, font=font)
    left = max(0, min(x1, draw.im.size[0] - right - 4))  # all of it, at the right edge too
    top = y1 - bottom - 4 if y1 > bottom + 4 else y1  # above the box, or in it at the upper edge
    draw.rectangle((left, top, left + right + 3, top + bottom + 3), fill=colour)
    draw.text((left + 2, top + 1), text, fill="black", font=font)
