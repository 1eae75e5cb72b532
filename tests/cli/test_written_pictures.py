"""Pictures that predict writes: none is lost."""

from pathlib import Path

import pytest
from PIL import Image

from understudy.cli.written_pictures import PictureFolder
from understudy.utils.errors import UserError

PICTURE = Image.new("RGB", (2, 2))


def test_two_pictures_of_one_name_do_not_become_one_file(tmp_path: Path) -> None:
    folder = PictureFolder(tmp_path / "out", "--masks")
    folder.write(PICTURE, "a/x.jpg")
    folder.write(PICTURE, "a/y.jpg")
    with pytest.raises(UserError, match=r"--masks: .*x\.png was written of a/x\.jpg, and b/x\.jpg has that name, too"):
        folder.write(PICTURE, "b/x.jpg")
    PictureFolder(tmp_path / "out", "--masks").write(PICTURE, "b/x.jpg")  # another call replaces its own


def test_no_picture_is_written_over_one_beside_what_it_is_made_of(tmp_path: Path) -> None:
    for name in ("x.png", "y.jpg"):
        PICTURE.save(tmp_path / name)
    folder = PictureFolder(tmp_path, "--boxes")
    with pytest.raises(UserError, match=r"x\.png lies among the pictures and would be lost; name another folder"):
        folder.write(PICTURE, str(tmp_path / "x.png"))
    folder.write(PICTURE, str(tmp_path / "y.jpg"))
    assert (tmp_path / "y.png").is_file()
