"""A folder of pictures that a command writes, one for each picture that it was given."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from understudy.utils.errors import UserError

__all__ = ["PictureFolder"]


class PictureFolder:
    """PNG files, each of the name of the picture that it is made of, and none over another or over what was given.

    Args:
        folder: made where it is not there.
        option: that names it, for messages.
    """

    def __init__(self, folder: Path, option: str) -> None:
        self._folder, self._option = folder, option
        self._written: dict[Path, str] = {}

    def write(self, image: Image.Image, of: str) -> None:
        """Write what was made of the picture at a path.

        Raises:
            UserError: another picture of that name was written, it lies beside the picture itself, or the folder cannot
                be written to.
        """
        file = self._folder / f"{Path(of).stem}.png"
        if file in self._written:
            raise UserError(
                f"{self._option}: {file} was written of {self._written[file]}, and {of} has that name, too; name them "
                "in commands of their own, each with its folder"
            )
        if file.exists() and self._folder.resolve() == Path(of).resolve().parent:
            raise UserError(f"{self._option}: {file} lies among the pictures and would be lost; name another folder")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            image.save(file)
        except OSError as error:
            raise UserError(f"cannot write {file}: {error.strerror or error}") from None
        self._written[file] = of
