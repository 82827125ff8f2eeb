"""What can be seen of a training run at each optimiser step; a recorded log may hold some of it. No torch here."""

from __future__ import annotations

from premortem.core.signal import Signal

SIGNALS: tuple[Signal, ...] = (
    Signal("loss", "nats", banded=True, help="mean training loss of the step's batches"),
    Signal("grad_norm", "", banded=True, slack=10.0, help="2-norm of the gradient before filter and clipping"),
    Signal("lr_factor", "×", help="the factor on the scheduled learning rate that the last step really used"),
    Signal("warm_up", "steps", help="the length of the ramp that the last step was under; 0 for none"),
    Signal("max_norm", "", help="the bound that gradients are clipped to"),
    Signal("skipped", "", help="1 where the optimiser was not called, else 0"),
    Signal("nonfinite_weights", "", help="1 where a bad step was followed by weights that are not finite"),
    Signal("weight_change", "", help="how far sampled weights moved; 0 where the step changed nothing"),
    Signal("step_time", "s", help="seconds from one step to the next"),
    Signal("free_space", "GiB", higher_is_worse=False, help="free space where checkpoints go"),
    Signal("space_factor", "×", higher_is_worse=False, help="free space over the need of the next checkpoint"),
    Signal("failed_saves", "", help="bundles in a row that could not be saved"),
    Signal("filter_strength", "×", help="the factor on the gradient filter's λ"),
)
