"""What a training loop may hand to the guard: each mistake is one line that says what to do."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from premortem.core.errors import ConfigError


def require_loss(loss: object) -> None:
    """Refuse what is no scalar tensor with a graph.

    Raises:
        ConfigError: naming what was found.
    """
    if not isinstance(loss, Tensor):
        raise ConfigError(
            f"run.step: found a loss of type {type(loss).__name__}, expected a scalar tensor with a graph; "
            "return the mean loss itself, without .item() or float()"
        )
    if loss.numel() != 1:
        raise ConfigError(f"run.step: found a loss of shape {tuple(loss.shape)}, expected one number; take its mean")
    if not loss.requires_grad:
        raise ConfigError(
            "run.step: found a loss without a graph, expected one that depends on the model's parameters; "
            "compute it outside torch.no_grad(), without .detach(), and unfreeze what is to be trained"
        )


def require_torch(model: object, optimizer: object) -> None:
    """Refuse what is no model or no optimiser of torch.

    Raises:
        ConfigError: naming what was found.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"guard.training: found a model of type {type(model).__name__}, expected a torch.nn.Module")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"guard.training: found an optimizer of type {type(optimizer).__name__}, expected a "
            "torch.optim.Optimizer; give what updates the weights"
        )


def require_fit(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse a model with nothing to train, or an optimiser of another model.

    Raises:
        ConfigError: naming what was found.
    """
    parameters = list(model.parameters())
    if not any(p.requires_grad for p in parameters):
        raise ConfigError(
            f"guard.training: found {len(parameters)} parameters of {type(model).__name__} and none that requires "
            "a gradient, expected at least one; unfreeze what is to be trained"
        )
    known = {id(p) for p in parameters}
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(id(p) in known for p in held):
        raise ConfigError(
            f"guard.training: found an optimizer over {len(held)} parameters, none of them the model's; expected "
            "some of model.parameters(); build the optimizer after moving, wrapping or reloading the model"
        )


def gaps_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """What of the model the optimiser does not move, and the reverse, in words."""
    known = {id(p) for p in model.parameters()}
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    left = sum(1 for p in model.parameters() if p.requires_grad and id(p) not in held)
    gaps = []
    if left:
        gaps.append(f"{left} trainable parameters of the model are in no group of the optimizer: they never change")
    if held - known:
        gaps.append(f"{len(held - known)} parameters of the optimizer are not the model's: they do not roll back")
    if not has_acting_learning_rate(optimizer):
        gaps.append(f"{type(optimizer).__name__} does not use its learning rate at each step: no rung can cut it")
    return gaps


def has_acting_learning_rate(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a factor on ``lr`` changes the step: Rprop reads it once, some optimisers have none."""
    return not isinstance(optimizer, torch.optim.Rprop) and all("lr" in g for g in optimizer.param_groups)


def require_lbfgs_alone(*, accumulate: int, has_scaler: bool) -> None:
    """Refuse what an optimiser cannot do that evaluates the loss itself.

    Raises:
        ConfigError: naming it.
    """
    if accumulate > 1:
        raise ConfigError(
            f"guard.training: found accumulate={accumulate} with LBFGS, expected 1: it evaluates the loss several "
            "times a step; give it the whole batch"
        )
    if has_scaler:
        raise ConfigError(
            "guard.training: found a scaler with LBFGS, expected none: torch's scaler takes no closure; "
            "train in float32 or bfloat16"
        )
