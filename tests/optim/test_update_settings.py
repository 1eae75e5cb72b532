import pytest
import timm
import torch
from pydantic import Field
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from understudy.core.config import Config
from understudy.optim import DOT, UPDATES, Joint, UpdateConfig, undecayed_names
from understudy.recipes.loading import merged, read_recipe
from understudy.utils.errors import UserError


class Recipe(Config):
    """As a recipe holds them, to see the key paths."""

    update: DOT.Config = Field(default_factory=DOT.Config)


@pytest.mark.parametrize(
    ("update", "problem"),
    [
        (
            {"delta": 0.2, "momentum": 0.9},
            "update.delta   0.2 with momentum 0.9 gives 1.1; momentum + |delta| must stay below 1",
        ),
        (
            {"momentum": 0.95},
            "update.delta   0.075 with momentum 0.95 gives 1.025; momentum + |delta| must stay below 1",
        ),
        (
            {"momentum": 0.2, "delta": -0.3},
            "update.delta   -0.3 with momentum 0.2 gives -0.1; momentum - |delta| must not fall below 0, "
            "unless allow_negative_momentum is set",
        ),
        ({"momentun": 0.9}, "update.momentun   unknown; did you mean momentum?"),
        (
            {"gain": "ema"},
            "update.gain   belongs to optimizer adamw, nadam or lion, not to sgd; leave it out, got 'ema'",
        ),
        (
            {"optimizer": "rmsprop_tf", "gain": "ema"},
            "update.gain   belongs to optimizer adamw, nadam or lion, not to rmsprop_tf; leave it out, got 'ema'",
        ),
        (
            {"optimizer": "nesterov", "dampening": 0.1},
            "update.dampening   Nesterov's momentum has none; leave it out, got 0.1",
        ),
        (
            {"optimizer": "adamw", "dampening": 0.1},
            "update.dampening   belongs to optimizer sgd, not to adamw; leave it out, got 0.1",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_refused_at_its_key(update: dict[str, object], problem: str) -> None:
    with pytest.raises(UserError) as caught:
        Recipe.read({"update": update}, what="recipe my.yaml")
    assert str(caught.value) == f"recipe my.yaml, 1 problem\n  {problem}"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"nesterov": True, "momentum": 0}, "nesterov   needs a momentum above 0, got 0"),
        (
            {"nesterov": True, "optimizer": "adamw"},
            "nesterov   belongs to optimizer sgd, not to adamw; leave it out, got True",
        ),
        ({"beta2": 0.9}, "beta2   belongs to optimizer adamw, nadam or lion, not to sgd; leave it out, got 0.9"),
        (
            {"eps": 1e-3},
            r"eps   belongs to optimizer adamw, nadam, rmsprop or rmsprop_tf, not to sgd; leave it out, got 0\.0",
        ),
        (
            {"optimizer": "adamw", "alpha": 0.99},
            "alpha   belongs to optimizer rmsprop or rmsprop_tf, not to adamw; leave it out",
        ),
    ],
)
def test_joint_refuses_settings_that_its_optimizer_would_not_read(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        Joint.Config.read(settings, what="update")


def test_negative_deltas_and_allowed_negative_momenta_are_accepted() -> None:
    assert DOT.Config(delta=-0.075).delta == -0.075
    assert DOT.Config(momentum=0.1, delta=0.3, allow_negative_momentum=True).delta == 0.3


@pytest.mark.parametrize("name", UPDATES)
def test_what_a_config_writes_it_reads_again(name: str) -> None:
    for optimizer in ("sgd", "adamw", "rmsprop", "rmsprop_tf", "nadam", "lion"):
        config = UPDATES[name].Config(optimizer=optimizer)
        assert type(config).read(config.model_dump(mode="json"), what="update") == config


@pytest.mark.parametrize("name", UPDATES)
def test_an_optimizer_with_a_default_of_its_own_has_it_unless_told_otherwise(name: str) -> None:
    config = UPDATES[name].Config
    assert [config(optimizer=o).alpha for o in ("rmsprop", "rmsprop_tf")] == [0.99, 0.9]
    assert [config(optimizer=o).beta2 for o in ("lion", "nadam")] == [0.99, 0.999]
    assert config(optimizer="lion", beta2=0.999).beta2 == 0.999


@pytest.mark.parametrize("name", UPDATES)
def test_nesterov_is_short_for_sgd_that_looks_ahead(name: str) -> None:
    config = UPDATES[name].Config
    assert config(optimizer="nesterov") == config(optimizer="sgd", nesterov=True)


@pytest.mark.parametrize("strategy", ["dist-b1", "dist-b2"])
def test_the_strategies_of_dist_open_with_dot(strategy: str) -> None:
    settings = merged(read_recipe(f"strategies/{strategy}"), {"update": {"name": "dot"}})
    update = DOT.Config.read(settings["update"], what="update")
    built = update.build([("weight", nn.Parameter(torch.ones(2, 2)))])
    found = (built.param_groups[0]["optimizer"], built.param_groups[0]["nesterov"], built.param_groups[0]["eps"])
    assert found == {"dist-b1": ("sgd", True, 1e-8), "dist-b2": ("rmsprop_tf", False, 1e-3)}[strategy]


@pytest.mark.parametrize("config", [Joint.Config, DOT.Config])
def test_norms_and_biases_are_decayed_unless_told_otherwise(config: type[UpdateConfig]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    everything, weights_only = (
        config(weight_decay=0.1, decay_norm_and_bias=flag).groups(model.named_parameters()) for flag in (True, False)
    )
    assert [len(group["params"]) for group in everything] == [6]
    assert [(len(group["params"]), group.get("weight_decay")) for group in weights_only] == [(2, None), (4, 0.0)]


@pytest.mark.parametrize("name", UPDATES)
def test_what_a_network_asks_not_to_decay_is_left_out_with_norms_and_biases(name: str) -> None:
    network = timm.create_model("deit_tiny_patch16_224", embed_dim=12, depth=1, num_heads=2, img_size=32)
    named = dict(network.named_parameters())
    asked = undecayed_names(network)
    update = UPDATES[name].Config(weight_decay=0.1, decay_norm_and_bias=False)
    groups = update.groups(named.items(), asked)
    decayed = {name for name, parameter in named.items() if any(parameter is p for p in groups[0]["params"])}
    assert {"pos_embed", "cls_token"} <= asked
    assert decayed == {name for name, p in named.items() if p.ndim > 1} - {"pos_embed", "cls_token"}
    assert {id(p) for group in param_groups_weight_decay(network, 0.1, no_weight_decay_list=asked)
            if group["weight_decay"] for p in group["params"]} == {id(p) for p in groups[0]["params"]}  # fmt: skip


def test_what_a_network_asks_not_to_decay_is_decayed_where_everything_is() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    built = Joint.Config(weight_decay=0.1).build([("pos_embed", weight)], undecayed={"pos_embed"})
    spared = Joint.Config(weight_decay=0.1, decay_norm_and_bias=False).build(
        [("pos_embed", weight)], undecayed={"pos*"}
    )
    assert [built.optimizer.param_groups[0]["weight_decay"], spared.optimizer.param_groups[0]["weight_decay"]] == [
        0.1,
        0,
    ]


def test_a_network_that_asks_for_nothing_has_no_undecayed_names() -> None:
    assert undecayed_names(nn.Linear(2, 2)) == frozenset()


def test_undecayed_parameters_move_by_their_gradient_only() -> None:
    weight, bias = nn.Parameter(torch.ones(1, 1)), nn.Parameter(torch.ones(1))
    update = DOT.Config(lr=1.0, weight_decay=0.5, decay_norm_and_bias=False).build([("w", weight), ("b", bias)])
    update.backward(task=(weight + bias).sum(), distill=(weight + bias).sum())
    update.step()
    assert (weight.item(), bias.item()) == (1 - 2.5, 1 - 2)


def test_frozen_parameters_are_left_out() -> None:
    trained, frozen = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1), requires_grad=False)
    update = Joint.Config().build([("trained", trained), ("frozen", frozen)])
    assert sum(len(group["params"]) for group in update.optimizer.param_groups) == 1
    with pytest.raises(UserError, match="there is nothing to train: no parameter requires a gradient"):
        DOT.Config().build([("frozen", frozen)])


@pytest.mark.parametrize("spares", [True, False])
@pytest.mark.parametrize("config", [Joint.Config, DOT.Config])
def test_layers_learn_at_timms_shares_of_the_rate(config: type[UpdateConfig], spares: bool) -> None:
    network = timm.create_model("deit_tiny_distilled_patch16_224", embed_dim=12, depth=2, num_heads=2, img_size=32)
    connector = nn.Linear(2, 2)
    named = [*network.named_parameters(), ("connectors.0.weight", connector.weight)]
    settings = config(optimizer="adamw", lr=0.01, layer_decay=0.5, decay_norm_and_bias=not spares)
    update = settings.for_network(network).build(named, undecayed=undecayed_names(network))

    wanted = param_groups_layer_decay(network, layer_decay=0.5, no_weight_decay_list=undecayed_names(network))
    shares = {id(parameter): group["lr_scale"] for group in wanted for parameter in group["params"]}
    groups = update.param_groups if isinstance(update, DOT) else update.optimizer.param_groups
    found = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert found.pop(id(connector.weight)) == 0.01
    assert found == pytest.approx({name: 0.01 * share for name, share in shares.items()})
    assert set(shares.values()) == {1.0, 0.5, 0.25, 0.125}
    assert update.initial_lr == update.lr == 0.01
    update.set_lr_factor(0.5)
    assert update.lr == 0.005


def test_a_layer_decay_of_1_changes_nothing() -> None:
    network = nn.Linear(2, 2)
    settings = Joint.Config()
    assert settings.for_network(network) is settings


def test_layers_of_a_network_that_does_not_say_them_are_refused() -> None:
    with pytest.raises(UserError, match=r"update\.layer_decay: Linear does not say which layer a parameter is of"):
        Joint.Config(layer_decay=0.9).for_network(nn.Linear(2, 2))
