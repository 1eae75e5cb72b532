"""Joint: one gradient of the summed losses, as most of the field trains."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from itertools import compress
from typing import Any

import torch
from timm.optim.lion import Lion
from timm.optim.rmsprop_tf import RMSpropTF
from torch import Tensor, nn

from understudy.core.batch import Losses
from understudy.optim.base import Update, UpdateConfig
from understudy.optim.joint_on_device import AGES, DeviceSteps, rule_problem

__all__ = ["Joint"]


class Joint(Update, name="joint"):
    """Minimises task + distill with any optimizer of torch.

    Args:
        optimizer: holds the parameters; its state is this update's state.
        clip_norm: longest gradient of a step, over all parameters together; None: as long as it comes.
    """

    class Config(UpdateConfig):
        """SGD with momentum (Nesterov's where asked for), AdamW, NAdam, RMSprop (torch's or TensorFlow's) or Lion."""

        def build(self, parameters: Iterable[tuple[str, nn.Parameter]], *, undecayed: Collection[str] = ()) -> Joint:
            """A Joint around torch's optimizer of that name, or timm's RMSpropTF or Lion."""
            return Joint(self._optimizer(self.groups(parameters, undecayed)), clip_norm=self.clip_norm)

        def _optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
            # Fused: on the CPU too, where torch would loop over the parameters in Python unless told otherwise.
            lr, momentum, decay = self.lr, self.momentum, self.weight_decay
            betas = (momentum, self.beta2)
            made: Mapping[str, Callable[[], torch.optim.Optimizer]] = {
                "sgd": lambda: torch.optim.SGD(
                    groups, lr, momentum=momentum, weight_decay=decay, nesterov=self.nesterov, fused=True
                ),
                "adamw": lambda: torch.optim.AdamW(groups, lr, betas, self.eps, decay, fused=True),
                "nadam": lambda: torch.optim.NAdam(groups, lr, betas, self.eps, decay),
                "rmsprop": lambda: torch.optim.RMSprop(groups, lr, self.alpha, self.eps, decay, momentum),
                # timm chooses: foreach on GPUs, else a loop; on the CPU foreach took ResNet-18 twice as long.
                "rmsprop_tf": lambda: RMSpropTF(groups, lr, self.alpha, self.eps, decay, momentum),
                "lion": lambda: Lion(groups, lr, betas, decay),
            }
            return made[self.optimizer]()

    def __init__(self, optimizer: torch.optim.Optimizer, *, clip_norm: float | None = None) -> None:
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.add_up: Callable[[Sequence[Tensor]], list[Tensor]] = list
        self._scaler: torch.amp.GradScaler | None = None  # of the last backward pass
        self._capture_device: torch.device | None = None  # where the learning rates are kept; None: in Python
        self._lr_factor: float | None = None  # what was set last
        self._device_steps: DeviceSteps | None = None  # of optimizers whose own steps are not to be captured

    def accumulate(self, losses: Losses, *, scaler: torch.amp.GradScaler | None = None) -> None:
        """One backward pass of the sum; what several give before a step adds up.

        Args:
            losses: with their weights.
            scaler: scales the loss; `step` unscales, and steps only where every gradient is finite.
        """
        total = losses.task if losses.distill is None else losses.task + losses.distill
        self._scaler = scaler
        (total if scaler is None else scaler.scale(total)).backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        """Change the weights by the gradients that have added up, over all processes."""
        reached = self._reached_anywhere()
        gradients = [parameter.grad for parameter in reached if parameter.grad is not None]  # all of them
        for parameter, gradient in zip(reached, self.add_up(gradients), strict=True):
            parameter.grad = gradient
        skips_there = self._scaler is not None and self._capture_device is not None and self.skip_problem() is None
        if isinstance(self.optimizer, torch.optim.SGD):
            _give_momenta_to_newcomers(self.optimizer, to_first=skips_there)
        steps: Any = self._device_steps or self.optimizer
        if self._scaler is not None and (skips_there or self.clip_norm is not None):
            self._scaler.unscale_(steps)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(reached, self.clip_norm)
        if self._scaler is None:
            steps.step()
        else:
            # Told that the optimizer can skip by itself, the scaler gives its kernel the tensor that says whether to;
            # else it reads that tensor, and calls or does not. torch's fused SGD leaves its momenta uninitialised
            # where it skips the very first step.
            steps._step_supports_amp_scaling = skips_there
            self._scaler.step(steps)
        self.optimizer.zero_grad(set_to_none=True)

    def _reached_anywhere(self) -> list[nn.Parameter]:
        """The parameters that have a gradient in any of the processes; where it is missing here, it becomes zeros."""
        parameters = self._parameters()
        here = torch.tensor([float(parameter.grad is not None) for parameter in parameters])
        (anywhere,) = self.add_up([here])
        if anywhere is here:  # what a lone process gets back
            return [parameter for parameter in parameters if parameter.grad is not None]
        reached = list(compress(parameters, (anywhere > 0).tolist()))
        for parameter in reached:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return reached

    def capture_problem(self) -> str | None:
        """None with the optimizers that a recipe can name: torch's fused SGD and AdamW on weights of up to 32 bits,
        whose kernels read the rate from the device, and those whose steps `DeviceSteps` takes.
        """
        if not isinstance(self.optimizer, torch.optim.SGD | torch.optim.AdamW):
            return rule_problem(self.optimizer)
        if not all(group["fused"] for group in self.optimizer.param_groups):
            return f"{type(self.optimizer).__name__} is not the fused one"
        if any(parameter.dtype == torch.float64 for parameter in self._parameters()):
            return "weights are float64, and a rate on the device has 32 bits"
        return None

    def skip_problem(self) -> str | None:
        """None of what torch's fused kernels do, which take the tensor that says whether a gradient is infinite."""
        if not isinstance(self.optimizer, torch.optim.SGD | torch.optim.AdamW):
            return f"Python counts the steps of {type(self.optimizer).__name__}"
        if any(group.get("dampening") for group in self.optimizer.param_groups):
            return "dampening leaves out the first step that is taken, which only Python knows"
        return None

    def prepare_capture(self, device: torch.device) -> None:
        """Keep there what changes from step to step: of SGD and AdamW the learning rates, as () tensors."""
        self._capture_device = device
        for group in self.optimizer.param_groups:
            group["initial_lr"] = float(group.get("initial_lr", group["lr"]))
        if not isinstance(self.optimizer, torch.optim.SGD | torch.optim.AdamW):
            self._device_steps = DeviceSteps(self.optimizer, device)
            return
        for group in self.optimizer.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float32, device=device)
            if device.type == "cuda" and "capturable" in group:
                group["capturable"] = True
        # Steps before and beside the recording are meant: torch warns of them once, unless it has.
        self.optimizer._warned_capturable_if_run_uncaptured = True

    def begin_step(self) -> None:
        """Give the numbers on the device their values; the learning rates have theirs."""
        if self._device_steps is not None:
            self._device_steps.begin_step()

    def count_replay(self) -> None:
        """Count a step where this is done here; torch's fused ones count on the device."""
        if self._device_steps is not None:
            self._device_steps.count()

    def set_lr_factor(self, factor: float) -> None:
        """Scale every parameter group's learning rate to `factor` times its own initial one."""
        super().set_lr_factor(factor)
        self._lr_factor = factor

    @property
    def lr(self) -> float:
        """Learning rate of the next step, of the first parameter group; nothing is read from the device."""
        if self._capture_device is None or self._lr_factor is None:
            return super().lr
        return self._lr_factor * self.initial_lr

    def baked_in(self) -> Hashable:
        """Settings of the groups but for the rate, who is trainable, and who has a momentum by now."""
        groups = tuple(
            tuple((key, value) for key, value in group.items() if key not in ("params", "lr", "initial_lr", AGES))
            for group in self.optimizer.param_groups
        )
        state = self.optimizer.state
        known = tuple((parameter.requires_grad, parameter in state) for parameter in self._parameters())
        layout = None if self._device_steps is None else self._device_steps.layout
        return groups, self.clip_norm, known, layout

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with learning rates as plain numbers wherever they are kept."""
        if self._device_steps is not None:
            self._device_steps.write_counts()
        state = super().state_dict()
        if self._capture_device is not None:
            factor = 1.0 if self._lr_factor is None else self._lr_factor
            for group in state["param_groups"]:
                group["lr"] = factor * group["initial_lr"]
                group.pop(AGES, None)
                if "capturable" in group:
                    group["capturable"] = False
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        super().load_state_dict(state)
        if self._capture_device is not None:
            self.prepare_capture(self._capture_device)
        if isinstance(self.optimizer, torch.optim.NAdam):
            # torch casts the product of momenta as if it were a parameter's: another number, on a GPU a wait for it.
            parameters = self._parameters()
            for number, saved in state["state"].items():
                self.optimizer.state[parameters[number]]["mu_product"] = saved["mu_product"].detach().cpu().clone()


def _give_momenta_to_newcomers(optimizer: torch.optim.SGD, *, to_first: bool = False) -> None:
    """A momentum of zeros for parameters that have their first gradient after others had theirs.

    torch's fused SGD cannot begin some momenta and go on with others in one step: it fails with a TypeError. Where all
    begin, it does so by itself; 0 * momentum + g is what it begins with.

    Args:
        optimizer: whose groups are looked through.
        to_first: also where all begin, so that this step may be skipped on the device.
    """
    for group in optimizer.param_groups:
        if not group["fused"] or group["momentum"] == 0 or group["dampening"] != 0:
            continue
        fresh = [
            p for p in group["params"] if p.grad is not None and "momentum_buffer" not in optimizer.state.get(p, {})
        ]
        if fresh and (to_first or len(fresh) < sum(parameter.grad is not None for parameter in group["params"])):
            for parameter in fresh:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
