"""Batch norms folded into convolutions: the same numbers, the same taps, and the network itself untouched."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import weight_norm

from helpers.engine import batches, run_recipe, small_net, small_teacher, tiny_recipe, trained
from helpers.states import differing
from understudy import Batch, LiveTeacher, create_model
from understudy.teachers.fold_batch_norm import fold_batch_norms_
from understudy.utils.seeding import seeded

NETWORKS = {  # norms that follow a convolution, which alone they take from, of all norms
    "cifar:resnet20": (21, 21),
    "cifar:resnet8x4": (10, 10),
    "cifar:wrn_16_2": (7, 13),  # the norms before each first convolution take sums
    "cifar:vgg8": (5, 5),
    "timm:mobilenetv3_small_050": (34, 34),
    "timm:densenet121": (59, 121),
    "torchvision:resnet18": (20, 20),
}


def with_statistics(module: nn.Module) -> nn.Module:
    """Batch norms as training leaves them: nothing about them is the identity."""
    with seeded(1):
        for child in module.modules():
            if isinstance(child, nn.BatchNorm2d):
                child.running_mean.normal_(0, 0.3)
                child.running_var.uniform_(0.5, 2.0)
                child.weight.data.uniform_(0.5, 1.5)
                child.bias.data.normal_(0, 0.3)
    return module.eval()


def network(name: str) -> nn.Module:
    with seeded(0):
        return with_statistics(create_model(name, num_classes=10, weights="none").module)


def images(size: int = 32) -> Tensor:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(7))


def error(one: Tensor, other: Tensor) -> float:
    return ((one - other).abs().max() / other.abs().max()).item()


def folded(module: nn.Module, size: int = 32) -> tuple[str, ...]:
    noise = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return fold_batch_norms_(module, lambda: [module(noise)])


def norms_in(module: nn.Module) -> int:
    return sum(isinstance(child, nn.BatchNorm2d) for child in module.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_says_the_same_to_1e_5(name: str) -> None:
    module, (foldable, norms) = network(name), NETWORKS[name]
    before = module(images())
    assert norms_in(module) == norms
    assert len(folded(module)) == foldable
    assert norms_in(module) == norms - foldable
    assert error(module(images()), before) < 1e-5


@pytest.mark.parametrize("name", ["cifar:resnet20", "cifar:wrn_16_2", "cifar:vgg8", "cifar:shufflenetv2"])
@pytest.mark.parametrize("taps", [("stages", "embedding"), ("preact_stages",)])
def test_tapped_features_stay_the_same_to_1e_5(name: str, taps: tuple[str, ...]) -> None:
    module = network(name)
    plain, lean = LiveTeacher(module), LiveTeacher(module, fold_batch_norm=True)
    batch = Batch(images(), torch.zeros(3, dtype=torch.int64))
    plain.tap(taps)
    expected = plain.observe(batch)
    lean.tap(taps)
    seen = lean.observe(batch)
    assert lean.folded
    assert list(seen.features) == list(expected.features)
    assert error(seen.output, expected.output) < 1e-5
    assert all(error(seen.features[tap], expected.features[tap]) < 1e-5 for tap in seen.features)


def test_hooks_on_stages_still_fire_after_folding() -> None:
    module, heard = network("cifar:resnet8"), []
    module.layer2.register_forward_hook(lambda _, inputs, output: heard.append(tuple(output.shape)))
    folded(module)
    heard.clear()
    module(images())
    assert heard == [(3, 32, 16, 16)]


@pytest.mark.parametrize("side", ["bn1", "conv1"])
def test_what_somebody_looks_at_is_not_folded(side: str) -> None:
    module = network("cifar:resnet8")
    module.get_submodule(side).register_forward_hook(lambda _, inputs, output: None)
    assert "bn1" not in folded(module)
    assert isinstance(module.bn1, nn.BatchNorm2d)


def test_a_norm_that_is_to_be_kept_is_kept() -> None:
    module = network("cifar:resnet8")
    found = fold_batch_norms_(module, lambda: [module(images())], keep=["layer1.0.bn2"])
    assert len(found) == norms_in(network("cifar:resnet8")) - 1
    assert isinstance(module.layer1[0].bn2, nn.BatchNorm2d)


class Block(nn.Module):
    """Convolution and norm, with something between or beside them."""

    def __init__(self, use: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True)
        self.norm, self.other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.use = use

    def forward(self, maps: Tensor) -> Tensor:
        return self.use(self, maps)


def beside(block: nn.Module, maps: Tensor) -> Tensor:
    raw = block.conv(maps)
    return block.norm(raw) + raw


def overwritten(block: nn.Module, maps: Tensor) -> Tensor:
    return block.norm(block.act(block.conv(maps)))


def for_two(block: nn.Module, maps: Tensor) -> Tensor:
    raw = block.conv(maps)
    return block.norm(raw) + 2 * block.other(raw)


def twice(block: nn.Module, maps: Tensor) -> Tensor:
    return block.norm(block.conv(block.norm(block.conv(maps))))


@pytest.mark.parametrize("use", [beside, overwritten, for_two, twice])
def test_a_convolution_whose_output_has_another_use_is_left_alone(use: Callable[..., Tensor]) -> None:
    module = with_statistics(Block(use))
    before = module(images())
    assert folded(module) == ()
    assert torch.equal(module(images()), before)


def test_only_the_pairs_that_would_change_something_are_left_out() -> None:
    module = with_statistics(nn.Sequential(Block(lambda b, x: b.norm(b.conv(x))), Block(beside), Block(overwritten)))
    before = module(images())
    assert folded(module) == ("0.norm",)
    assert error(module(images()), before) < 1e-5


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_weights_that_are_worked_out_before_each_pass_are_not_folded_into() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, maps: Tensor) -> Tensor:
            return self._conv_forward(maps, self.weight / self.weight.norm(), self.bias)

    for convolution in (Standardised(3, 4, 3), weight_norm(nn.Conv2d(3, 4, 3))):
        assert folded(with_statistics(nn.Sequential(convolution, nn.BatchNorm2d(4)))) == ()


def test_a_norm_that_takes_its_statistics_from_the_batch_is_not_folded() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert folded(module) == ()


def test_folding_keeps_channels_last_weights() -> None:
    module = network("cifar:resnet8").to(memory_format=torch.channels_last)
    folded(module)
    assert module.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_lean_teacher_leaves_the_network_it_was_given_as_it_was() -> None:
    module = network("cifar:resnet8")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    teacher = LiveTeacher(module, fold_batch_norm=True)
    for taps in (["stages"], ["preact_stages"], []):
        teacher.tap(taps)
        assert list(teacher.observe(batches()[0]).features) == list(teacher.model.taps)
        assert len(teacher.folded) == norms_in(module)  # whatever is tapped
        assert differing(before, teacher.model.module.state_dict()) == []
    teacher.tap(["preact_stages"])
    assert len(teacher.model.norms()) == 4


def test_a_lean_teacher_shares_all_weights_but_those_of_the_folded_convolutions() -> None:
    teacher = LiveTeacher(small_net(1), fold_batch_norm=True)
    teacher.observe(batches()[0])
    run = teacher._run.module
    assert run.fc.weight is teacher.model.module.fc.weight
    assert run.conv.weight is not teacher.model.module.conv.weight


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_a_network_that_cannot_be_copied_is_run_as_it_is() -> None:
    module = with_statistics(nn.Sequential(weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.Flatten()))
    module(images(8))  # its weight is now something that was worked out, which torch does not copy
    teacher = LiveTeacher(module, fold_batch_norm=True)
    assert torch.equal(teacher.observe(batches()[0]).output, module(batches()[0].images))


def test_students_of_a_lean_teacher_learn_the_same_up_to_rounding() -> None:
    plain, lean = small_teacher(), small_teacher()
    lean.fold_batch_norm = True
    losses = [
        trained(["kd"], teacher, epochs=1).history["kd"][0]["train"]["kl_to_teacher"] for teacher in (plain, lean)
    ]
    assert lean.folded == ("norm",)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_half_precision_of_the_student_does_not_keep_a_teacher_from_being_folded() -> None:
    teacher = LiveTeacher(network("cifar:resnet8"), fold_batch_norm=True)
    with torch.autocast("cpu", torch.bfloat16):
        seen = teacher.observe(batches()[0])
    assert seen.output.dtype == torch.bfloat16
    assert len(teacher.folded) == norms_in(teacher.model.module)


@pytest.mark.slow
def test_a_compiled_teacher_says_the_same_and_its_taps_fire() -> None:
    module = network("cifar:resnet8")
    plain, fast = LiveTeacher(module), LiveTeacher(module, fold_batch_norm=True, compile=True)
    for teacher in (plain, fast):
        teacher.tap(["stages", "embedding"])
    for batch in batches():  # the last one is smaller
        expected, seen = plain.observe(batch), fast.observe(batch)
        assert error(seen.output, expected.output) < 1e-5
        assert all(error(seen.features[tap], expected.features[tap]) < 1e-5 for tap in expected.features)


class Exits(nn.Module):
    """An early exit that reads a convolution's output, and opens for bright images."""

    def __init__(self, opens: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.fc, self.exit, self.opens = nn.Linear(6, 5), nn.Linear(6, 5), opens

    def forward(self, images: Tensor) -> Tensor:
        raw = self.conv(images)
        main, gate = self.fc(self.norm(raw).relu().mean((2, 3))), self.opens(images)
        if gate.any():  # or the exit is not even run
            return torch.where(gate[:, None], self.exit(raw.mean((2, 3))), main)
        return main


def shut_but_for_bright(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3)) > 0.7


def shut_but_for_striped(images: Tensor) -> Tensor:
    return (images[:, :, ::2] - images[:, :, 1::2]).abs().mean((1, 2, 3)) > 0.9


@pytest.mark.parametrize("opens", [shut_but_for_bright, shut_but_for_striped])
def test_a_second_reader_that_is_silent_on_noise_is_seen(opens: Callable[[Tensor], Tensor]) -> None:
    module, shown = with_statistics(Exits(opens)), torch.ones(4, 3, 8, 8)
    shown[:2, :, ::2] = 0
    teacher = LiveTeacher(module, fold_batch_norm=True)
    seen = teacher.observe(Batch(shown, torch.zeros(4, dtype=torch.int64)))
    assert error(seen.output, module(shown)) < 1e-5
    assert teacher.folded == ()


def test_a_reader_whose_answer_is_thrown_away_is_a_reader() -> None:
    module = with_statistics(Block(lambda b, x: (lambda raw: b.norm(raw) + 0 * b.other(raw))(b.conv(x))))
    assert folded(module) == ()


def test_what_one_student_sees_does_not_depend_on_the_taps_of_another() -> None:
    module, batch = network("cifar:resnet8"), Batch(images(), torch.zeros(3, dtype=torch.int64))
    outputs = []
    for taps in ([], ["preact_stages"], ["bn1", "layer1.0.conv1"], ["layer2.0.bn1:input", "stages.1"]):
        teacher = LiveTeacher(module, fold_batch_norm=True)
        teacher.tap(taps)
        outputs.append(teacher.observe(batch).output)
        assert len(teacher.folded) == norms_in(module)
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_a_tap_on_a_folded_convolution_gives_what_the_convolution_gives() -> None:
    module, batch = network("cifar:resnet8"), Batch(images(), torch.zeros(3, dtype=torch.int64))
    taps = ["layer1.0.conv1", "bn1", "layer2.0.bn1:input", "embedding"]
    plain, lean = LiveTeacher(module), LiveTeacher(module, fold_batch_norm=True)
    for teacher in (plain, lean):
        teacher.tap(taps)
    expected, seen = plain.observe(batch).features, lean.observe(batch).features
    assert list(seen) == taps
    assert all(error(seen[tap], expected[tap]) < 1e-5 for tap in taps)


def test_weights_written_through_data_are_folded_anew_at_the_next_tap() -> None:
    module, batch = network("cifar:resnet8"), Batch(images(), torch.zeros(3, dtype=torch.int64))
    teacher = LiveTeacher(module, fold_batch_norm=True)
    for change in (lambda: None, lambda: module.bn1.running_var.data.mul_(4), lambda: module.conv1.weight.data.neg_()):
        change()
        teacher.tap([])
        assert error(teacher.observe(batch).output, module(images())) < 1e-5


def test_a_network_without_parameters_is_left_as_it_is() -> None:
    rule = nn.Flatten()
    assert LiveTeacher(rule, fold_batch_norm=True).observe(batches()[0]).output.shape == (8, 192)


@pytest.mark.parametrize("others", [["ofd"], ["fitnet+dot", "ofd"]])
def test_a_row_beside_others_is_the_row_alone_bit_for_bit(others: list[str], tmp_path: Path) -> None:
    over = {"seeds": [0], "epochs": 1, "channels_last": False, "teacher": {"kwargs": {"width": 0.5}}}
    files = []
    for rows in (["kd"], ["kd", *others]):
        run = run_recipe(tiny_recipe({**over, "rows": rows}), tmp_path / str(len(rows)))
        files.append((run.path / "students" / "kd" / "seed0" / "model.safetensors").read_bytes())
    assert files[0] == files[1]
