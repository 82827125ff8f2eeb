"""What the service is held beside: FastAPI and a small net in one process, with nothing that a service needs.

    python benchmarks/service_bare.py PORT

No queue, no bound, no deadline, no second process, no check of the answer: a floor for latency on this machine.
"""

from __future__ import annotations

import sys

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(nn.Embedding(5, 32), nn.Flatten(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 80)).eval()
app = FastAPI()


class Request(BaseModel):
    """A puzzle."""

    puzzle: list[int]


@app.post("/solve")
async def solve(request: Request) -> dict[str, list[int]]:
    """One forward pass."""
    with torch.inference_mode():
        logits = net(torch.tensor([request.puzzle]))
    return {"solution": logits.reshape(16, 5).argmax(-1).tolist()}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
