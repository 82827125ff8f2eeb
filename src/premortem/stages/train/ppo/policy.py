"""The trained policy at serve time: one file, asked without stable-baselines3.

The file is safetensors; its header carries the sizes of the net, where it comes from, and a hash of the weights, which
loading checks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from premortem.core.errors import ConfigError, StageError
from premortem.stages.train.maze import read_maze, shortest_length
from premortem.stages.train.ppo.network import WalkNet, WalkNetConfig
from premortem.stages.train.ppo.walk import View, Walk, Walker

FORMAT = "premortem-ppo-1"
_ELSE = "train it again, or use another file"


class PPOPolicy:
    """A policy that walks mazes, the best move at each step.

    Args:
        net: the trained net.
        origin: how it came to be, plain text by name: seed, steps, size of the training mazes.
    """

    def __init__(self, net: WalkNet, origin: Mapping[str, str] | None = None) -> None:
        self.net = net.eval().requires_grad_(requires_grad=False)
        self.origin = dict(origin or {})

    @property
    def sha256(self) -> str:
        """Of the weights by name, with the sizes of the net."""
        return _digest(self.net)

    @torch.no_grad()
    def moves(self, views: View) -> list[int]:
        """The best move of each view (B, C), by number (:data:`MOVES`); what SB3's deterministic ``predict`` gives."""
        return [int(move) for move in self.net(torch.from_numpy(views))[0].argmax(1)]

    def solve(self, tokens: Sequence[int], max_steps: int = 0) -> Walk:
        """Walk one maze.

        Args:
            tokens: one a cell, row by row, as for HRM (:func:`read_maze`); ``bytes`` or whole numbers.
            max_steps: cap on the walk; 0 allows as many as there are cells, which no walk exceeds.

        Raises:
            ConfigError: for what is no maze, or one without any path, in one line for its sender.
        """
        return self.solve_all([tokens], max_steps)[0]

    def solve_all(self, mazes: Sequence[Sequence[int]], max_steps: int = 0) -> list[Walk]:
        """Walk mazes of one size together, which costs little more than one. Raises as :meth:`solve`."""
        walkers = [Walker(_checked(maze)) for maze in mazes]
        if len({len(walker.maze) for walker in walkers}) > 1:
            raise ConfigError("mazes of several sizes in one call: expected one size; call once a size")
        on_the_way = walkers
        for _ in range(max_steps or (len(walkers[0].maze) if walkers else 0)):
            on_the_way = [walker for walker in on_the_way if not walker.reached and walker.open_moves()]
            if not on_the_way:
                break
            for walker, move in zip(on_the_way, self.moves(np.stack([w.view for w in on_the_way])), strict=True):
                walker.step(move)
        return [walker.walk() for walker in walkers]

    def save(self, path: Path) -> str:
        """Write one file; returns the hash of the weights that :attr:`sha256` gives."""
        config = {"channels": self.net.config.channels, "rounds": self.net.config.rounds}
        said = {"format": FORMAT, "net": json.dumps(config), "sha256": self.sha256, "origin": json.dumps(self.origin)}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: weight.contiguous() for name, weight in self.net.state_dict().items()}, path, said)
        return said["sha256"]

    @classmethod
    def load(cls, path: Path) -> PPOPolicy:
        """The policy of a file that :meth:`save` wrote.

        Raises:
            StageError: for a file that is missing, cut, changed, not finite, or no policy.
        """
        said, weights = _read(path)
        try:
            if said.get("format") != FORMAT:
                raise KeyError
            with torch.random.fork_rng(devices=[]):  # the draws of a fresh net are thrown away; nobody's stream moves
                net = WalkNet(WalkNetConfig(**json.loads(said["net"])))
            origin = json.loads(said["origin"])
            net.load_state_dict(weights)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            found = said.get("format", "no format")
            raise StageError(f"{path}: found {found}, expected the weights of a {FORMAT}; {_ELSE}") from error
        if _digest(net) != said.get("sha256"):
            raise StageError(f"{path}: its weights do not match their hash; they were changed: {_ELSE}")
        if not all(bool(weight.isfinite().all()) for weight in weights.values()):
            raise StageError(f"{path}: holds NaN or infinite weights, expected finite ones; {_ELSE}")
        return cls(net, origin)


def _checked(tokens: Sequence[int]) -> bytes:
    maze = read_maze(tokens)
    shortest_length(maze)
    return maze


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise StageError(f"{path}: cannot be read ({error}), expected a policy file; {_ELSE}") from error


def _digest(net: WalkNet) -> str:
    hashed = hashlib.sha256(f"{FORMAT} {net.config}".encode())
    for name, weight in sorted(net.state_dict().items()):
        hashed.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        hashed.update(weight.contiguous().numpy().tobytes())
    return hashed.hexdigest()
