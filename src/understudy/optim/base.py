"""What every update is: losses in, new weights out; and the settings that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn

from understudy.core.batch import Losses
from understudy.core.config import Config
from understudy.optim.parameter_groups import layer_lr_shares, parameter_groups
from understudy.optim.schedule import initial_lr_of, scale_lr_
from understudy.utils.errors import UserError
from understudy.utils.installed import register

__all__ = [
    "DEFAULT_UPDATE",
    "OWN_DEFAULTS",
    "UPDATES",
    "Optimizer",
    "Update",
    "UpdateConfig",
    "one_of",
    "row_suffix",
    "update_names",
    "update_of_row",
    "word_in_row",
]

Optimizer = Literal["sgd", "adamw", "rmsprop", "rmsprop_tf", "nadam", "lion"]

# Where an optimizer is commonly run with another value than the rest: torch's RMSprop, the paper of Lion.
OWN_DEFAULTS: dict[str, dict[str, float]] = {"rmsprop": {"alpha": 0.99}, "lion": {"beta2": 0.99}}


UPDATES: dict[str, type[Update]] = {}
DEFAULT_UPDATE = "joint"  # of a recipe that names none, and of a row whose name has none in it


class UpdateConfig(Config):
    """Settings that every update has. Under AdamW, NAdam and Lion `momentum` is beta_1.

    `optimizer: nesterov` is short for sgd with `nesterov: true`.
    """

    only_with: ClassVar[dict[str, tuple[str, ...]]] = {  # settings that not every optimizer reads
        "beta2": ("adamw", "nadam", "lion"),
        "alpha": ("rmsprop", "rmsprop_tf"),
        "eps": ("adamw", "nadam", "rmsprop", "rmsprop_tf"),
        "nesterov": ("sgd",),
    }

    update: ClassVar[type[Update]]  # set when the Update that owns this Config is defined

    name: str = Field(default="", validate_default=True)  # the update's own
    optimizer: Optimizer = "sgd"  # whose rule is followed; nesterov: sgd with nesterov: true
    lr: float = Field(default=0.05, gt=0)  # with SGD and 64 images per step, Tian et al. 2020; AdamW wants about 1e-3
    momentum: float = Field(default=0.9, ge=0, lt=1)  # under AdamW, NAdam and Lion beta_1
    weight_decay: float = Field(default=5e-4, ge=0)  # Tian et al. 2020
    decay_norm_and_bias: bool = True  # False: not norms and biases, nor what the network itself asks to leave out
    layer_decay: float = Field(default=1.0, gt=0, le=1)  # each layer learns at so much of the rate of the one behind it
    clip_norm: float | None = Field(default=None, gt=0)  # longest gradient of a step, over all parameters together
    beta2: float = Field(default=0.999, ge=0, lt=1)  # Lion: 0.99
    alpha: float = Field(default=0.9, ge=0, lt=1)  # RMSprop's memory of squared gradients; TensorFlow's; torch's: 0.99
    eps: float = Field(default=1e-8, gt=0)  # rmsprop_tf: under the root; 1e-3 in the EfficientNet recipes
    nesterov: bool = False  # of sgd: look ahead with the momentum

    _lr_shares: dict[str, float] = PrivateAttr(default_factory=dict)  # by parameter; empty: all learn at the rate

    @model_validator(mode="before")
    @classmethod
    def _with_its_own_defaults(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(chosen := data.get("optimizer"), str):
            return data
        if chosen == "nesterov":
            return {**data, "optimizer": "sgd", "nesterov": True}
        return {**OWN_DEFAULTS.get(chosen, {}), **data}

    @field_validator("name")
    @classmethod
    def _is_of_its_update(cls, name: str) -> str:
        if name and name != cls.update.name:
            raise ValueError(f"these are settings of update {cls.update.name!r}, got {name!r}")
        return cls.update.name

    @field_validator("*")
    @classmethod
    def _is_read(cls, value: Any, info: ValidationInfo) -> Any:
        """A value that the chosen optimizer would silently ignore is a mistake."""
        field = str(info.field_name)
        readers, chosen = cls.only_with.get(field), info.data.get("optimizer")
        if readers and chosen not in (None, *readers) and value != cls.model_fields[field].default:
            raise ValueError(f"belongs to optimizer {one_of(readers)}, not to {chosen}; leave it out, got {value!r}")
        return value

    @field_validator("nesterov")
    @classmethod
    def _has_a_momentum_to_look_ahead_with(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("momentum") == 0:
            raise ValueError("needs a momentum above 0, got 0")
        return nesterov

    def for_network(self, network: nn.Module) -> Self:
        """The same settings, which know of a network's layers where `layer_decay` asks for them.

        Raises:
            UserError: it does not say what its layers are.
        """
        if self.layer_decay == 1:
            return self
        settings = self.model_copy()
        settings._lr_shares = layer_lr_shares(network, self.layer_decay)
        return settings

    def build(self, parameters: Iterable[tuple[str, nn.Parameter]], *, undecayed: Collection[str] = ()) -> Update:
        """The update of these named parameters; frozen ones are left out.

        Args:
            parameters: by name.
            undecayed: names (patterns, as in timm) that `decay_norm_and_bias: false` leaves out besides; what
                `undecayed_names` found.

        Raises:
            UserError: none of the parameters is trainable.
        """
        raise NotImplementedError(f"update {self.name!r} defines no build")

    def in_words(self) -> str:
        """'joint (sgd, lr 0.05, momentum 0.9)'."""
        return f"{self.name} ({self.optimizer}, lr {self.lr:g}, {self.momentum_in_words()})"

    def length_note(self, num_steps: int) -> str | None:
        """What to say before a run of so many steps; None as a rule."""
        return None

    def momentum_in_words(self) -> str:
        """'momentum 0.9'."""
        return f"momentum {self.momentum:g}"

    def groups(
        self, parameters: Iterable[tuple[str, nn.Parameter]], undecayed: Collection[str] = ()
    ) -> list[dict[str, Any]]:
        """The trainable ones of the parameters as torch's parameter groups, apart where decay or rate differ."""
        trainable = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
        if not trainable:
            raise UserError("there is nothing to train: no parameter requires a gradient; unfreeze some of the student")
        return parameter_groups(
            trainable,
            spares=not self.decay_norm_and_bias,
            undecayed=undecayed,
            lr=self.lr,
            lr_shares=self._lr_shares,
        )


class Update:
    """Base of every update: turns the losses of one step into new weights. It sees scalars and parameters, no more.

    A subclass is registered by `class Mine(Update, name="mine")` and declares its settings as a nested `Config`, whose
    `build` makes one. Every other than the default is named in rows: `kd+dot`.

    Attributes:
        add_up: sums gradients over the processes of a run, before they are clipped and used; a lone process gets back
            the very tensors it gave.
        retains_graph: whether `accumulate` goes through a graph more than once.
        optimizer: holds the parameters and what is remembered of them; an update without one defines what reads it.
        needs_distillation: whether a student alone, without a method, is trained by the default update instead.
        needs_streams: parts of the distill loss that `accumulate` reads apart, out of `Losses.parts`; only methods that
            say which of their terms belong to which (`Method.streams`) are trained by it.
    """

    class Config(UpdateConfig):
        """Replaced by every update's own."""

    name: ClassVar[str]
    retains_graph: ClassVar[bool] = False
    needs_distillation: ClassVar[bool] = False
    needs_streams: ClassVar[tuple[str, ...]] = ()

    add_up: Callable[[Sequence[Tensor]], list[Tensor]]
    optimizer: torch.optim.Optimizer

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is None:
            return
        if "Config" not in cls.__dict__:
            raise ValueError(f"update {name!r} has no settings of its own; define a class Config in {cls.__name__}")
        register(UPDATES, name, cls, kind="an update")
        cls.name = name
        cls.Config.update = cls

    def accumulate(self, losses: Losses, *, scaler: torch.amp.GradScaler | None = None) -> None:
        """Backward pass(es); gradients of several calls before a step add up."""
        raise NotImplementedError(f"{type(self).__name__} defines no accumulate")

    def step(self) -> Any:
        """Change the weights by what has been accumulated."""
        raise NotImplementedError(f"{type(self).__name__} defines no step")

    def __call__(self, losses: Losses) -> None:
        """Both: backward pass(es) and one step."""
        self.accumulate(losses)
        self.step()

    @property
    def lr(self) -> float:
        """Learning rate of the next step, of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def initial_lr(self) -> float:
        """Learning rate of the first parameter group where its factor is 1."""
        return initial_lr_of(self.optimizer)

    def set_lr_factor(self, factor: float) -> None:
        """Scale every parameter group's learning rate to `factor` times its own initial one."""
        scale_lr_(self.optimizer, factor)

    def capture_problem(self) -> str | None:
        """Why a step of it cannot be recorded and replayed without Python going through it again; None: it can."""
        return f"update {self.name} does not say how its step is replayed"

    def skip_problem(self) -> str | None:
        """Why a step that a GradScaler finds infinite is not skipped on the device; None: it is, once prepared."""
        return "Python has to know of it"

    def prepare_capture(self, device: torch.device) -> None:
        """Keep what changes from step to step as tensors of the device from now on, in whatever step.

        Only where `capture_problem` finds none.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no prepare_capture")

    def begin_step(self) -> None:
        """Give these tensors their values for the step to come, whose learning rate is set; no part of a recording."""

    def baked_in(self) -> Hashable:
        """Everything of Python that a recording of a step has in it: where it changes, another one is needed."""
        return ()

    def count_replay(self) -> None:
        """Count a step that was replayed."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs: the optimizer's momenta, step counts, learning rates."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.optimizer.load_state_dict(state)


def update_names() -> list[str]:
    """All that are registered, the default first."""
    return sorted(UPDATES, key=lambda name: (name != DEFAULT_UPDATE, name))


def word_in_row(part: str) -> bool:
    """Whether a part of a row's name, such as dot in kd+dot, stands for an update."""
    return part in UPDATES and part != DEFAULT_UPDATE


def update_of_row(update: UpdateConfig, *, distils: bool) -> str:
    """Name of the update that trains a row of a recipe with this one: a student alone may get the default."""
    return update.name if distils or not update.update.needs_distillation else DEFAULT_UPDATE


def one_of(names: Iterable[str]) -> str:
    """The names as a choice in words: "a, b or c"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def row_suffix(update: UpdateConfig, *, distils: bool) -> str:
    """What the update adds to a row's name: '+dot', or nothing for the one that needs no mention."""
    name = update_of_row(update, distils=distils)
    return f"+{name}" if word_in_row(name) else ""
