"""Named features of any network."""

import copy
import pickle
import re
import weakref

import pytest
import timm
import torch
from torch import Tensor, nn

from helpers.engine import SmallNet, small_net
from understudy.core.compile import compiled
from understudy.core.taps import TappedModel
from understudy.models import create_model
from understudy.utils.errors import UserError

# A network of each layout: (name, image size, arguments).
RESNET = ("cifar:resnet8", 32, {})
MOBILENET = ("timm:mobilenetv3_small_050", 64, {})
VIT = ("timm:vit_tiny_patch16_224", 32, {"depth": 3, "embed_dim": 24})
SWIN = (
    "timm:swin_tiny_patch4_window7_224",
    64,
    {"embed_dim": 12, "depths": (1, 1, 2, 1), "num_heads": (1, 1, 2, 2), "window_size": 2},
)


def tapped(network: tuple[str, int, dict], *taps: str) -> TappedModel:
    name, size, kwargs = network
    module = create_model(name, num_classes=10, weights="none", image_size=size, kwargs=kwargs).module
    return TappedModel(module, taps).eval()


def features_of(network: tuple[str, int, dict], *taps: str) -> dict[str, Tensor]:
    with torch.no_grad():
        return tapped(network, *taps)(images_for(network))[1]


def images_for(network: tuple[str, int, dict]) -> Tensor:
    return torch.rand(2, 3, network[1], network[1], generator=torch.Generator().manual_seed(0))


def shapes(features: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {tap: tuple(feature.shape) for tap, feature in features.items()}


class TestShapes:
    def test_resnet8(self) -> None:
        assert shapes(features_of(RESNET, "stages", "preact_stages", "embedding", "layer2", "layer2:input")) == {
            **{f"{group}.0": (2, 16, 32, 32) for group in ("stages", "preact_stages")},
            **{f"{group}.1": (2, 16, 32, 32) for group in ("stages", "preact_stages")},
            **{f"{group}.2": (2, 32, 16, 16) for group in ("stages", "preact_stages")},
            **{f"{group}.3": (2, 64, 8, 8) for group in ("stages", "preact_stages")},
            "embedding": (2, 64),
            "layer2": (2, 32, 16, 16),
            "layer2:input": (2, 16, 32, 32),
        }

    def test_mobilenet_has_the_stages_that_timm_says(self) -> None:
        module = timm.create_model("mobilenetv3_small_050", features_only=True)
        expected = [
            (2, info["num_chs"], 64 // info["reduction"], 64 // info["reduction"]) for info in module.feature_info
        ]
        found = shapes(features_of(MOBILENET, "stages", "embedding", "blocks.1:input"))
        assert found.pop("embedding") == (2, 1024)
        assert found.pop("blocks.1:input") == expected[1]
        assert list(found.values()) == expected

    def test_tokens_of_a_vit_become_maps_without_the_class_token(self) -> None:
        assert shapes(features_of(VIT, "stages", "embedding", "blocks.1:input")) == {
            **{f"stages.{i}": (2, 24, 2, 2) for i in range(3)},
            "embedding": (2, 24),
            "blocks.1:input": (2, 24, 2, 2),
        }

    def test_swin_with_channels_last_becomes_channels_first(self) -> None:
        assert shapes(features_of(SWIN, "stages", "embedding")) == {
            "stages.0": (2, 12, 16, 16),
            "stages.1": (2, 24, 8, 8),
            "stages.2": (2, 48, 4, 4),
            "stages.3": (2, 96, 2, 2),
            "embedding": (2, 96),
        }

    def test_a_convolution_of_swin_that_is_channels_first_already_stays_so(self) -> None:
        assert shapes(features_of(SWIN, "patch_embed.proj")) == {"patch_embed.proj": (2, 12, 16, 16)}

    def test_all_tokens_of_a_vit_are_one_vector(self) -> None:
        name, size, kwargs = VIT
        network = create_model(name, num_classes=5, weights="none", image_size=size, kwargs=kwargs).module.eval()
        images, given = torch.rand(2, 3, size, size), {}
        network.norm.register_forward_hook(lambda module, inputs, output: given.update(tokens=output))
        _, features = TappedModel(network, ["norm:tokens"])(images)
        assert given["tokens"].ndim == 3
        assert torch.equal(features["norm:tokens"], given["tokens"].mean(dim=1))

    def test_what_are_no_tokens_is_refused_as_such(self) -> None:
        with pytest.raises(UserError, match=r"holds at 'layer1:tokens' is \(2, .*\), which are no tokens"):
            TappedModel(timm.create_model("resnet18", num_classes=2), ["layer1:tokens"])(torch.rand(2, 3, 32, 32))

    def test_register_tokens_of_a_vit_are_no_places_of_the_map(self) -> None:
        name, size, kwargs = VIT  # 2x2 places, a class token and four registers: nine tokens, but no 3x3 map
        features = features_of((name, size, {**kwargs, "reg_tokens": 4}), "stages")
        assert shapes(features) == {f"stages.{i}": (2, 24, 2, 2) for i in range(3)}

    def test_a_classifier_of_one_by_one_convolutions_has_a_vector_as_embedding(self) -> None:
        class ConvHead(SmallNet):
            pretrained_cfg = {"classifier": "head"}  # noqa: RUF012

            def __init__(self) -> None:
                super().__init__()
                self.head = nn.Conv2d(6, 10, 1)

            def forward(self, images: Tensor) -> Tensor:
                return self.head(self.act(self.conv(images)).mean((2, 3), keepdim=True)).flatten(1)

        _, features = TappedModel(ConvHead(), ["embedding"])(torch.rand(2, 3, 8, 8))
        assert shapes(features) == {"embedding": (2, 6)}


class TestValues:
    def test_the_place_of_a_token_is_its_place_in_the_map(self) -> None:
        model = tapped(VIT, "blocks.0")
        raw: list[Tensor] = []
        model.module.get_submodule("blocks.0").register_forward_hook(lambda *call: raw.append(call[2]))
        with torch.no_grad():
            features = model(images_for(VIT))[1]["blocks.0"]
        assert torch.equal(features[:, :, 1, 0], raw[0][:, 1 + 2])  # class token, then row by row

    def test_the_channels_of_swin_are_those_of_its_own_last_axis(self) -> None:
        model = tapped(SWIN, "layers.1")
        raw: list[Tensor] = []
        model.module.get_submodule("layers.1").register_forward_hook(lambda *call: raw.append(call[2]))
        with torch.no_grad():
            features = model(images_for(SWIN))[1]["layers.1"]
        assert torch.equal(features[:, 5, 3, 1], raw[0][:, 3, 1, 5])

    @pytest.mark.parametrize("network", [RESNET, MOBILENET, VIT, SWIN], ids=lambda network: network[0])
    def test_the_embedding_is_what_the_classifier_gets(self, network: tuple[str, int, dict]) -> None:
        model = tapped(network, "embedding")
        classifier = model.module.get_classifier()
        classifier = getattr(classifier, "fc", classifier)  # Swin's head has a pooling of its own
        with torch.no_grad():
            output, features = model(images_for(network))
            torch.testing.assert_close(classifier(features["embedding"]), output)

    @pytest.mark.parametrize("network", [RESNET, MOBILENET, VIT, SWIN], ids=lambda network: network[0])
    def test_tapping_changes_no_output(self, network: tuple[str, int, dict]) -> None:
        model = tapped(network, "stages", "embedding")
        with torch.no_grad():
            tapped_output = model(images_for(network))[0]
            assert torch.equal(model.untapped()(images_for(network)), tapped_output)

    def test_preactivations_are_what_enters_the_activation(self) -> None:
        before, after = (features_of_seeded(RESNET, group) for group in ("preact_stages", "stages"))
        for number in range(4):
            assert before[f"preact_stages.{number}"].min() < 0
            assert torch.equal(before[f"preact_stages.{number}"].relu(), after[f"stages.{number}"])

    @pytest.mark.parametrize("tap", ["norm", "act:input"])
    def test_an_inplace_activation_does_not_overwrite_what_is_tapped_before_it(self, tap: str) -> None:
        network = small_net(0)
        images = torch.rand(2, 3, 8, 8)
        network.train()
        output, features = TappedModel(network, [tap])(images)
        assert features[tap].min() < 0
        assert torch.equal(network.fc(features[tap].relu().mean((2, 3))), output)

    def test_gradients_flow_through_tapped_features(self) -> None:
        network = small_net(0)
        _, features = TappedModel(network, ["norm", "embedding"])(torch.rand(2, 3, 8, 8))
        features["norm"].square().sum().backward()
        assert network.conv.weight.grad is not None
        assert network.fc.weight.grad is None

    def test_untapped_networks_catch_nothing_any_more(self) -> None:
        network = small_net(0)
        module = TappedModel(network, ["embedding"]).untapped()
        assert module is network
        images = torch.rand(2, 3, 8, 8)
        kept = weakref.ref(images)
        network(images)
        del images
        assert kept() is None
        assert all(not child._forward_hooks and not child._forward_pre_hooks for child in network.modules())

    def test_prepare_comes_before_the_network(self) -> None:
        class Half(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return images / 2

        network = small_net(0).eval()
        images = torch.rand(2, 3, 8, 8)
        output, features = TappedModel(network, ["conv:input"], prepare=Half())(images)
        assert torch.equal(features["conv:input"], images / 2)
        assert torch.equal(output, network(images / 2))


def features_of_seeded(network: tuple[str, int, dict], *taps: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return features_of(network, *taps)


class TestMessages:
    def test_an_unknown_tap_is_answered_with_the_nearest_name_and_the_list(self) -> None:
        expected = "student kd has nothing to tap at 'layer4'; did you mean layer1? it offers: embedding, stages.0, "
        with pytest.raises(UserError, match=re.escape(expected).replace("layer1", r"layer\d")):
            TappedModel(tapped(RESNET).module, ["layer4"], name="student kd")

    def test_a_tap_that_resembles_none_is_answered_with_the_list(self) -> None:
        with pytest.raises(UserError, match=r"has nothing to tap at 'qqq'; it offers: embedding, conv, norm, act, "):
            TappedModel(small_net(0), ["qqq"])

    def test_the_input_of_an_unknown_module_is_unknown_too(self) -> None:
        with pytest.raises(UserError, match=r"nothing to tap at 'nrm:input'; did you mean norm"):
            TappedModel(small_net(0), ["nrm:input"])

    def test_a_stage_beyond_the_last_is_unknown(self) -> None:
        with pytest.raises(UserError, match=r"nothing to tap at 'stages\.4'; did you mean stages\.3\?"):
            tapped(RESNET, "stages.4")

    @pytest.mark.parametrize("group", ["stages", "preact_stages"])
    def test_a_network_that_names_no_stages_is_asked_for_modules(self, group: str) -> None:
        with pytest.raises(
            UserError, match=f"does not say where its {group} are .* modules of both networks instead: embedding, "
        ):
            TappedModel(small_net(0), [group])

    def test_a_side_that_is_no_side_is_unknown(self) -> None:
        with pytest.raises(UserError, match="norm:inputs"):
            TappedModel(small_net(0), ["norm:inputs"])

    def test_a_tap_that_never_fires_says_so_with_the_names_there_are(self) -> None:
        network = small_net(0)
        network.unused = nn.Linear(2, 2)
        model = TappedModel(network, ["conv", "unused"], name="teacher small")
        expected = r"nothing was tapped at 'unused': teacher small has that module, but .* does not call it; it offers:"
        with pytest.raises(UserError, match=expected):
            model(torch.rand(2, 3, 8, 8))

    def test_a_feature_that_is_no_tensor_is_named(self) -> None:
        class ListNet(SmallNet):
            def __init__(self) -> None:
                super().__init__()
                self.pair = Pair()

            def forward(self, images: Tensor) -> Tensor:
                return super().forward(self.pair(images)["left"])

        with pytest.raises(UserError, match="pair"):
            TappedModel(ListNet(), ["pair"])(torch.rand(2, 3, 8, 8))


class Pair(nn.Module):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"left": images, "right": images}


class TestDryForward:
    def test_it_tells_output_and_sizes(self) -> None:
        output, found = tapped(RESNET, "stages.2", "embedding").dry_forward(images_for(RESNET))
        assert output.shape == (2, 10)
        assert {tap: str(shape) for tap, shape in found.items()} == {"stages.2": "32x16x16", "embedding": "64"}

    def test_it_leaves_modes_buffers_random_state_and_gradients_as_they_were(self) -> None:
        class Counting(SmallNet):
            calls: Tensor

            def __init__(self) -> None:
                super().__init__(dropout=0.5)
                self.register_buffer("calls", torch.zeros(()))

            def forward(self, images: Tensor) -> Tensor:
                self.calls += 1
                torch.rand(1)
                return super().forward(images)

        model = TappedModel(Counting(), ["embedding"])
        model.train()
        model.module.norm.eval()
        modes = {name: child.training for name, child in model.named_modules()}
        before = {name: value.clone() for name, value in model.state_dict().items()}
        random_state = torch.get_rng_state()
        output, _ = model.dry_forward(torch.rand(2, 3, 8, 8, generator=torch.Generator()))
        assert torch.equal(torch.get_rng_state(), random_state)
        assert {name: child.training for name, child in model.named_modules()} == modes
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert not output.requires_grad

    def test_it_puts_everything_back_after_an_error_too(self) -> None:
        network = small_net(0)
        network.unused = nn.Linear(2, 2)
        model = TappedModel(network, ["unused"]).train()
        with pytest.raises(UserError):
            model.dry_forward(torch.rand(2, 3, 8, 8))
        assert all(child.training for child in model.modules())


class Residual(nn.Module):
    """A residual block that adds its shortcut in place, in passes that `adds` allows."""

    def __init__(self, adds=lambda number: True) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(3, 4)
        self.dropout = nn.Dropout(0.5)
        self.adds, self.number = adds, 0

    def forward(self, images: Tensor) -> Tensor:
        self.number += 1
        out = self.norm(self.conv(images))
        if self.adds(self.number):
            out += 5 * images
        return self.fc(self.dropout(out).relu_().mean((2, 3)))


def residual(**arguments) -> Residual:
    torch.manual_seed(0)
    return Residual(**arguments)


class TestWrittenIntoLater:
    @pytest.mark.parametrize("trains", [True, False])
    @pytest.mark.parametrize("tap", ["norm", "norm:input", "conv"])
    def test_a_feature_is_what_the_module_gave_from_the_first_pass_on(self, tap: str, trains: bool) -> None:
        network, images, true = residual().train(trains), torch.rand(4, 3, 6, 6), []
        path, _, side = tap.partition(":")
        network.get_submodule(path).register_forward_hook(
            lambda _, given, got: true.append((given[0] if side else got).clone())
        )
        model = TappedModel(network, [tap]).train(trains)
        for _ in range(2):
            assert torch.equal(model(images)[1][tap], true[-1])

    def test_its_gradient_arrives_where_the_module_is(self) -> None:
        network = residual()
        TappedModel(network, ["norm"])(torch.rand(4, 3, 6, 6))[1]["norm"].square().sum().backward()
        assert network.norm.weight.grad.abs().min() > 0

    def test_a_pass_that_writes_late_leaves_what_one_pass_leaves(self) -> None:
        images, plain, late = torch.rand(4, 3, 6, 6), residual(), residual(adds=lambda number: number > 1)
        model = TappedModel(late, ["norm"])
        for tapped_pass in (False, True):
            torch.manual_seed(7)
            plain.number, plain.adds = 0, lambda number, on=tapped_pass: on
            expected = plain(images)
            drawn = torch.rand(1)
            torch.manual_seed(7)
            output, features = model(images)
            assert torch.equal(output, expected)
            assert torch.equal(torch.rand(1), drawn)
        assert torch.equal(late.norm.running_mean, plain.norm.running_mean)
        assert torch.equal(features["norm"].mean((0, 2, 3)), late.norm(late.conv(images)).mean((0, 2, 3)))

    def test_the_taps_of_timms_resnet_are_the_outputs_of_its_modules(self) -> None:
        network = timm.create_model("resnet10t", num_classes=4).eval()
        images, true = torch.rand(1, 3, 32, 32), {}
        network.layer1[0].bn2.register_forward_hook(lambda _, given, got: true.update(bn2=got.clone()))
        _, features = TappedModel(network, ["layer1.0.bn2"])(images)
        assert torch.equal(features["layer1.0.bn2"], true["bn2"])

    @pytest.mark.slow
    def test_compiled_code_gives_what_the_module_gave(self) -> None:
        network, images = residual().eval(), torch.rand(4, 3, 6, 6)
        expected = network.norm(network.conv(images))
        for model in (TappedModel(network, ["norm"]), TappedModel(residual().eval(), ["norm"])):
            found = compiled(model, True)(images)[1]["norm"]
            torch.testing.assert_close(found, expected)
            model.untapped()


class TestBetweenTwoPasses:
    def test_the_network_has_no_hooks_and_its_activations_stay_in_place(self) -> None:
        network = small_net(0)
        model = TappedModel(network, ["norm", "embedding"])
        model(torch.rand(2, 3, 8, 8))
        assert network.act.inplace
        assert all(not child._forward_hooks and not child._forward_pre_hooks for child in network.modules())

    @pytest.mark.parametrize("holds", [False, True])
    def test_network_and_tapped_model_can_be_pickled_and_copied(self, holds: bool) -> None:
        images, model = torch.rand(2, 3, 8, 8), TappedModel(small_net(0), ["norm", "embedding"]).eval()
        if holds:
            model.hold()
        expected = model(images)
        pickle.loads(pickle.dumps(model.module))(images)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            output, features = other(images)
            assert torch.equal(output, expected[0])
            assert torch.equal(features["norm"], expected[1]["norm"])


class Gated(nn.Module):
    """Squeeze and excitation behind, a classifier that is declared first."""

    def __init__(self, ends=lambda net, x: net.head(x)) -> None:
        super().__init__()
        self.head, self.other = nn.Linear(6, 4), nn.Linear(6, 4)
        self.conv, self.down, self.up = nn.Conv2d(3, 6, 3), nn.Linear(6, 2), nn.Linear(2, 6)
        self.pointwise, self.ends = nn.Conv2d(6, 4, 1), ends

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        return self.ends(self, maps.mean((2, 3)) * self.up(self.down(maps.mean((2, 3))).relu()).sigmoid())


ENDS = {
    "plain": ("head", lambda net, x: net.head(x)),
    "temperature": ("head", lambda net, x: net.head(x) / 3),
    "softmax": ("head", lambda net, x: net.head(x).softmax(1)),
    "in_place": ("head", lambda net, x: net.head(x).mul_(2)),
    "convolution": ("pointwise", lambda net, x: net.pointwise(x[:, :, None, None]).flatten(1)),
}


class TestClassifier:
    @pytest.mark.parametrize("end", ENDS)
    def test_the_embedding_is_the_input_of_the_layer_whose_output_the_logits_are(self, end: str) -> None:
        path, ends = ENDS[end]
        model, images = TappedModel(Gated(ends).eval(), ["embedding", f"{path}:input"]), torch.rand(3, 3, 8, 8)
        for _ in range(2):
            features = model(images)[1]
            assert torch.equal(features["embedding"], features[f"{path}:input"])
        assert model.classifier == path

    def test_the_dry_forward_finds_it_too(self) -> None:
        model = TappedModel(Gated(), ["embedding"])
        assert model.dry_forward(torch.zeros(2, 3, 8, 8))[1]["embedding"].channels == 6
        assert model.classifier == "head"

    def test_an_embedding_that_is_not_there_is_refused_by_name(self) -> None:
        torch.manual_seed(2)  # of other weights, one head may rank the classes as the mean does
        averaged = Gated(lambda net, x: (net.head(x) + net.other(x)) / 2)
        expected = r"student kd has no 'embedding', .* its logits are not what any linear layer"
        with pytest.raises(UserError, match=expected):
            TappedModel(averaged, ["embedding"], name="student kd").dry_forward(torch.rand(2, 3, 8, 8))

    def test_what_timm_declares_is_believed_where_two_heads_are_averaged(self) -> None:
        network = timm.create_model(
            "deit_tiny_distilled_patch16_224", img_size=32, depth=1, embed_dim=12, num_heads=2, num_classes=4
        )
        model = TappedModel(network.eval(), ["embedding"])
        model(torch.rand(2, 3, 32, 32))
        assert model.classifier == "head"


class TestLayouts:
    def test_prefix_tokens_that_are_not_there_yet_are_not_dropped(self) -> None:
        network = nn.Sequential(nn.Identity())
        network.num_prefix_tokens = 1  # as in CaiT, whose class token joins late
        assert TappedModel(network, ["0"])(torch.rand(2, 16, 5))[1]["0"].shape == (2, 5, 4, 4)
        assert TappedModel(network, ["0"])(torch.rand(2, 17, 5))[1]["0"].shape == (2, 5, 4, 4)
        with pytest.raises(UserError, match=r"at '0' are 15 tokens \(2, 15, 5\), which make no square map"):
            TappedModel(network, ["0"])(torch.rand(2, 15, 5))

    def test_of_several_maps_of_one_size_it_is_the_first(self) -> None:
        class Stage(nn.Module):
            def forward(self, maps: Tensor) -> list[Tensor]:
                return [maps, maps[:, :1]]

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stage = Stage()

            def forward(self, images: Tensor) -> Tensor:
                return self.stage(images)[0].mean((2, 3))

        images = torch.rand(2, 3, 4, 4)
        assert torch.equal(TappedModel(Net(), ["stage"])(images)[1]["stage"], images)
        Net.forward = lambda net, tokens: net.stage(tokens)[0].mean(1)  # as in CrossViT: tokens of two branches
        with pytest.raises(UserError, match=r"at 'stage' is a list of 2 \(\(2, 9, 3\), \(2, 1, 3\)\)"):
            TappedModel(Net(), ["stage"])(torch.rand(2, 9, 3))


class TestDryForwardOfOddNetworks:
    def test_buffers_that_are_registered_stay_and_those_that_grow_are_put_back(self) -> None:
        class Growing(SmallNet):
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("lows", torch.zeros(0))

            def forward(self, images: Tensor) -> Tensor:
                if not hasattr(self, "grid"):
                    self.register_buffer("grid", torch.ones(images.shape[-2:]))
                self.lows.resize_(3).fill_(1)
                return super().forward(images * self.grid)

        model = TappedModel(Growing(), ["embedding"])
        model.dry_forward(torch.zeros(2, 3, 8, 8))
        assert model.module.grid.shape == (8, 8)
        assert model.module.lows.shape == (0,)

    def test_a_network_that_cannot_run_in_channels_last_is_made_contiguous(self) -> None:
        class Viewing(SmallNet):
            def forward(self, images: Tensor) -> Tensor:
                maps = self.conv(images)
                return self.fc(maps.view(len(maps), -1)[:, :6])

        network = Viewing().to(memory_format=torch.channels_last)
        model = TappedModel(network, ["conv"])
        assert model.dry_forward(torch.zeros(2, 3, 8, 8))[0].shape == (2, 10)
        assert model.is_contiguous_only
        assert network.conv.weight.is_contiguous()

    def test_half_weights_are_said_with_the_way_out(self) -> None:
        with pytest.raises(UserError, match=r"teacher x cannot take .* its weights are float16.*network\.float\(\)"):
            TappedModel(small_net(0).half(), name="teacher x").dry_forward(torch.zeros(2, 3, 8, 8))
