"""Networks of Hugging Face's transformers: what is built from a folder or a description."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from helpers.hf_folders import VIT, write_processor
from understudy import DOT, Classification, LiveTeacher, StudentSpec, methods, trainer
from understudy.core.taps import TappedModel, classifier_name
from understudy.models import create_model, save_student
from understudy.utils.errors import UserError

transformers = pytest.importorskip("transformers", reason="transformers is not installed (pip install .[hf])")
transformers.utils.logging.disable_progress_bar()

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def logits_of(model: nn.Module, images: torch.Tensor = IMAGES) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(images)


def test_a_folders_weights_give_transformers_own_logits(vit: Path) -> None:
    network = create_model(f"hf:{vit}", num_classes=7)
    own = transformers.ViTForImageClassification.from_pretrained(vit).eval()
    with torch.no_grad():
        expected = own(pixel_values=network.prepare(IMAGES)).logits
    assert network.starts_from == "pretrained weights"
    assert torch.equal(logits_of(network.prepared), expected)


@pytest.mark.parametrize("folder", ["vit", "resnet"])
def test_weights_and_parts_keep_transformers_names(folder: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(folder)
    own = transformers.AutoModelForImageClassification.from_pretrained(path)
    made = create_model(f"hf:{path}", num_classes=7).module
    assert list(made.state_dict()) == list(own.state_dict())
    assert [name for name, _ in made.named_modules()] == [name for name, _ in own.named_modules()]
    assert type(made).__name__ == type(own).__name__


def test_images_are_normalised_as_the_image_processor_says(vit: Path) -> None:
    network = create_model(f"hf:{vit}", num_classes=7, mean=(0.1,) * 3, std=(0.1,) * 3)
    assert network.mean == pytest.approx([0.5, 0.4, 0.3], abs=1e-6)
    assert network.std == pytest.approx([0.2, 0.3, 0.4], abs=1e-6)
    picture = Image.new("RGB", (16, 16), (255, 128, 0))
    processor = transformers.AutoImageProcessor.from_pretrained(vit)
    expected = processor(images=picture, return_tensors="pt")["pixel_values"]
    unit = (torch.tensor([255, 128, 0]) / 255).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    assert torch.allclose(network.prepare(unit), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "mean", "std"),
    [
        ({"do_normalize": False}, [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
        ({"do_normalize": False, "rescale_factor": 2 / 255}, [0.0, 0.0, 0.0], [0.5, 0.5, 0.5]),
        ({"image_mean": [1.0] * 3, "image_std": [1.0] * 3, "rescale_factor": 2 / 255}, [0.5] * 3, [0.5] * 3),
    ],
)
def test_a_processor_that_rescales_in_its_own_way_is_followed(
    vit: Path, settings: dict[str, Any], mean: list[float], std: list[float]
) -> None:
    write_processor(vit, size={"height": 16, "width": 16}, **settings)
    network = create_model(f"hf:{vit}", num_classes=7)
    assert network.mean == pytest.approx(mean, abs=1e-5)
    assert network.std == pytest.approx(std, abs=1e-5)


def test_a_processor_that_swaps_channels_is_refused(vit: Path) -> None:
    write_processor(vit, "MobileViTImageProcessor", size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    with pytest.raises(UserError, match="wants other channels than red, green, blue; take the same network from timm:"):
        create_model(f"hf:{vit}", num_classes=7)


def test_without_a_processor_the_datas_normalisation_is_taken(vit: Path) -> None:
    (vit / "preprocessor_config.json").unlink()
    network = create_model(f"hf:{vit}", num_classes=7, mean=(0.25,) * 3, std=(0.5,) * 3)
    assert (network.mean, network.std) == ([0.25] * 3, [0.5] * 3)


def test_the_size_is_the_configurations_where_it_names_one_else_the_processors(vit: Path, resnet: Path) -> None:
    fixed, free = (create_model(f"hf:{folder}", num_classes=7) for folder in (vit, resnet))
    large = torch.rand(1, 3, 40, 40)
    assert (fixed.input_size, fixed.prepare(large).shape[-1]) == (16, 16)
    assert (free.input_size, free.prepare(large).shape[-1]) == (24, 40)
    assert logits_of(free.prepared, large).shape == (1, 7)


def test_another_number_of_classes_gets_a_new_head_on_the_published_body(vit: Path) -> None:
    network = create_model(f"hf:{vit}", num_classes=3)
    own = transformers.ViTForImageClassification.from_pretrained(vit).state_dict()
    made = network.module.state_dict()
    assert network.starts_from == "pretrained weights"
    assert logits_of(network.prepared).shape == (2, 3)
    assert [key for key in own if not torch.equal(own[key], made[key])] == ["classifier.weight", "classifier.bias"]


def test_a_new_head_is_drawn_by_the_seed(vit: Path) -> None:
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        heads.append(create_model(f"hf:{vit}", num_classes=3).module.classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_weights_for_another_image_size_are_not_drawn_at_random_in_silence(vit: Path) -> None:
    network = create_model(f"hf:{vit}", num_classes=7, image_size=32)
    assert network.starts_from == (
        "random weights (no pretrained ones could be had: vit.embeddings.position_embeddings are of another shape "
        "for this image size and these settings)"
    )
    assert logits_of(network.prepared).shape == (2, 7)
    with pytest.raises(UserError, match=r"pretrained weights cannot be had: vit.embeddings.position_embeddings are of"):
        create_model(f"hf:{vit}", num_classes=7, image_size=32, weights="pretrained")


def test_half_precision_files_are_trained_in_float32(vit: Path) -> None:
    half = transformers.ViTForImageClassification.from_pretrained(vit).half()
    half.save_pretrained(vit)
    for weights in ("pretrained", "none"):
        made = create_model(f"hf:{vit}", num_classes=7, weights=weights).module
        assert {parameter.dtype for parameter in made.parameters()} == {torch.float32}


def test_settings_replace_those_of_the_configuration(vit: Path) -> None:
    made = create_model(f"hf:{vit}", num_classes=3, weights="none", kwargs={"num_hidden_layers": 1}).module
    assert len(made.vit.layers) == 1


def test_what_follows_from_a_replaced_setting_follows(resnet: Path) -> None:
    deeper = {"hidden_sizes": [8, 12, 16], "depths": [1, 1, 1]}
    network = create_model(f"hf:{resnet}", num_classes=3, weights="none", kwargs=deeper)
    assert network.module.config.stage_names == ["stem", "stage1", "stage2", "stage3"]
    assert logits_of(network.prepared).shape == (2, 3)


def test_a_described_network_is_built_without_any_folder() -> None:
    network = create_model("hf:mine", num_classes=3, kwargs={"model_type": "vit", **VIT})
    assert network.starts_from == "random weights"
    assert logits_of(network.prepared).shape == (2, 3)


def test_features_are_tapped_by_transformers_names_and_the_classifier_is_found(vit: Path, resnet: Path) -> None:
    tapped = TappedModel(create_model(f"hf:{vit}", num_classes=7).module.eval(), ["vit.layers.0", "embedding"])
    _, features = tapped(IMAGES)
    assert {tap: tuple(feature.shape) for tap, feature in features.items()} == {
        "vit.layers.0": (2, 16, 2, 2),
        "embedding": (2, 16),
    }
    network = create_model(f"hf:{resnet}", num_classes=7).module
    assert classifier_name(network) == "classifier.1"
    assert network.get_submodule("classifier.1").out_features == 7


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"hiden_size": 8}, "cannot be built with hiden_size: it is unknown; did you mean hidden_size?"),
        ({"num_hidden_layers": "two"}, "cannot be built with these settings: .*'num_hidden_layers' expected int, got"),
        ({"hidden_act": "geluu"}, "cannot be built as an image classifier: KeyError: 'geluu'"),
    ],
)
def test_settings_that_do_not_fit_are_named(vit: Path, kwargs: dict[str, int], text: str) -> None:
    with pytest.raises(UserError, match=text):
        create_model(f"hf:{vit}", num_classes=7, weights="none", kwargs=kwargs)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"model_type": "vitt"}, "model_type 'vitt' is unknown; did you mean vit"),
        ({"model_type": "vit", "hiden_size": 8}, "hf:mine cannot be built with hiden_size: it is unknown; did you"),
        (
            {"model_type": "bert"},
            "hf:mine cannot be built as an image classifier: ValueError: Unrecognized configuration class",
        ),
    ],
)
def test_a_description_that_does_not_fit_is_refused(kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        create_model("hf:mine", num_classes=3, kwargs=kwargs)


def test_a_folder_without_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be had: .*\. Give the name of an image classifier on the hub"):
        create_model(f"hf:{tmp_path}", num_classes=3)


def test_a_folder_without_weights_starts_at_random_and_says_so(vit: Path) -> None:
    (vit / "model.safetensors").unlink()
    network = create_model(f"hf:{vit}", num_classes=7)
    assert network.starts_from.startswith("random weights (no pretrained ones could be had: ")


def test_timms_own_networks_are_sent_to_timm() -> None:
    with pytest.raises(UserError, match=r"hf:timm/resnet18.a1_in1k is one of timm's networks; write timm:resnet18.a1"):
        create_model("hf:timm/resnet18.a1_in1k", num_classes=3)


def test_a_folder_in_timms_format_is_sent_to_timm(tmp_path: Path) -> None:
    save_student(tmp_path, create_model("timm:mobilenetv3_small_050", num_classes=3, weights="none"))
    with pytest.raises(UserError, match="one of timm's networks; write timm:mobilenetv3_small_050, and give a folder"):
        create_model(f"hf:{tmp_path}", num_classes=3)


def test_a_name_of_the_hub_without_its_source_is_understood() -> None:
    with pytest.raises(UserError, match=r"does not say where it comes from.*did you mean hf:google/vit-base-patch16\?"):
        create_model("google/vit-base-patch16", num_classes=3)


def test_a_teacher_and_a_student_of_transformers_take_a_step(vit: Path, resnet: Path) -> None:
    teacher, student = (create_model(f"hf:{folder}", num_classes=7) for folder in (vit, resnet))
    before = {key: value.clone() for key, value in student.module.state_dict().items()}
    batch = (IMAGES, torch.tensor([0, 6]))
    loop = trainer(
        task=Classification(num_classes=7),
        students=[
            StudentSpec(student.module, method=methods.KD.Config(), update=DOT.Config(lr=0.1), prepare=student.prepare)
        ],
        sample=batch,
        teacher=LiveTeacher(teacher.module, prepare=teacher.prepare),
    )
    loop.fit([batch], epochs=1)
    after = student.module.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    assert not torch.equal(before["classifier.1.weight"], after["classifier.1.weight"])
