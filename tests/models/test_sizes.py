"""Networks of a fixed image size: who says it, and weights that are for another."""

from pathlib import Path

import pytest
import torch

from understudy.models import create_model
from understudy.utils.errors import UserError

VIT, SMALL = "timm:vit_tiny_patch16_224", {"depth": 1, "embed_dim": 12, "num_heads": 3}


def test_a_size_in_kwargs_is_what_the_network_is_built_for() -> None:
    network = create_model(VIT, num_classes=3, weights="none", kwargs={**SMALL, "img_size": 48})
    assert network.module.pos_embed.shape[1] == 1 + 3 * 3
    assert (network.input_size, network.prepare.size) == (48, 48)


def test_another_size_beside_it_is_refused() -> None:
    with pytest.raises(UserError, match=r"kwargs say img_size=48, and an image size of 32 is asked for; leave one"):
        create_model(VIT, num_classes=3, weights="none", image_size=32, kwargs={**SMALL, "img_size": 48})
    with pytest.raises(UserError, match=r"kwargs say image_size=48, and an image size of 32 is asked for"):
        create_model("torchvision:vit_b_16", num_classes=3, image_size=32, kwargs={"image_size": 48})


@pytest.mark.parametrize(("stated", "size"), [([48, 48], 48), ([48, 32], (48, 32)), ("48", 48)])
def test_a_size_in_kwargs_may_be_a_pair_and_equal_sides_are_one_number(stated: object, size: object) -> None:
    made = create_model(VIT, num_classes=3, weights="none", image_size=size, kwargs={**SMALL, "img_size": stated})
    assert (made.input_size, made.prepare.size) == (size, size)


def test_a_size_in_kwargs_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="kwargs say img_size='large': it is a number of pixels, or"):
        create_model(VIT, num_classes=3, weights="none", kwargs={**SMALL, "img_size": "large"})


@pytest.mark.parametrize("name", [VIT, "timm:swin_tiny_patch4_window7_224", "timm:mixer_s32_224"])
def test_a_network_of_fixed_size_is_built_for_a_rectangle(name: str) -> None:
    made = create_model(name, num_classes=3, weights="none", image_size=(64, 96))
    assert (made.input_size, made.prepare.size) == ((64, 96), (64, 96))
    assert made.prepared.eval()(torch.rand(2, 3, 50, 90)).shape == (2, 3)


def test_a_network_that_takes_squares_alone_says_so_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"vit_b_16 takes squares alone, and .* 64 x 96 is asked for; give one number"):
        create_model("torchvision:vit_b_16", num_classes=3, weights="none", image_size=(64, 96))


def test_weights_of_a_square_are_refused_for_a_rectangle_with_their_size(tmp_path: Path) -> None:
    made = create_model(VIT, num_classes=3, weights="none", image_size=224, kwargs=SMALL)
    torch.save(made.module.state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"the file is for 224 pixels, and .* built for 64 x 96; set it=224$"):
        create_model(
            VIT, num_classes=3, weights=tmp_path / "a.pth", image_size=(64, 96), kwargs=SMALL, size_setting="it"
        )


@pytest.mark.parametrize("size", [16, 64, 224])
def test_weights_for_another_size_say_for_which(tmp_path: Path, size: int) -> None:
    made = create_model(VIT, num_classes=3, weights="none", image_size=size, kwargs=SMALL)
    torch.save({"model": made.module.state_dict()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=rf"the file is for {size} pixels, and {VIT} is built for 32; set it={size}$"):
        create_model(VIT, num_classes=3, weights=tmp_path / "a.pth", image_size=32, kwargs=SMALL, size_setting="it")


def test_weights_of_another_width_are_no_matter_of_size(tmp_path: Path) -> None:
    made = create_model(VIT, num_classes=3, weights="none", image_size=64, kwargs={**SMALL, "embed_dim": 24})
    torch.save(made.module.state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match="Are they of another architecture"):
        create_model(VIT, num_classes=3, weights=tmp_path / "a.pth", image_size=32, kwargs=SMALL)
