"""Pictures with the boxes that a detector found, for `understudy predict --boxes`."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

from PIL import Image, ImageDraw, ImageFont

from understudy.runs.predict import Answer, Prediction
from understudy.utils.errors import UserError
from understudy.utils.untrusted import visible

__all__ = ["write_boxes"]

_COLOURS = ("#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#D55E00", "#F0E442", "#3B82C4", "#B58CFF")
_TEXT_SHARE = 0.03  # of the picture's shorter side
_TEXT_SIZES = (10, 28)  # pixels


def write_boxes(prediction: Prediction, folder: Path) -> None:
    """Write the picture with its boxes, their classes and how sure each is, as a PNG of the picture's name.

    Raises:
        UserError: the student is no detector, or the folder cannot be written to.
    """
    if not prediction.has_boxes or prediction.picture is None:
        raise UserError(f"--boxes: {prediction.image} has no boxes; its student is no detector")
    image = Image.fromarray(prediction.picture.permute(1, 2, 0).contiguous().numpy())
    least, most = _TEXT_SIZES
    size = max(least, min(most, round(_TEXT_SHARE * min(image.size))))
    draw = ImageDraw.Draw(image)
    for answer in reversed(prediction.student):  # the surest lies on top
        _draw(draw, answer, ImageFont.load_default(size), width=max(1, size // 7))
    file = folder / f"{Path(prediction.image).stem}.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        image.save(file)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}") from None


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
