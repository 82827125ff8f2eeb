"""An unmodified script: it saves at each step, goes on from what it saved, and holds 1.5 MB more at every step."""

import json
import os
import sys
import time

LAST = int(sys.argv[1]) if len(sys.argv) > 1 else 90
HOLDS = int(sys.argv[2]) if len(sys.argv) > 2 else 1_500_000

at, held = 0, []
if os.path.exists("checkpoint.json"):
    with open("checkpoint.json") as saved:
        at = json.load(saved)["step"]
for step in range(at + 1, LAST + 1):
    held.append(b"x" * HOLDS)
    time.sleep(0.05)
    with open("checkpoint.new", "w") as new:
        json.dump({"step": step}, new)
    os.replace("checkpoint.new", "checkpoint.json")
    print("step", step, flush=True)
