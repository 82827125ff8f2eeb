"""An unmodified script whose service does not answer at its first two starts."""

import os
import sys

starts = len([name for name in os.listdir() if name.startswith("start-")]) + 1
with open(f"start-{starts}", "w"):
    pass
print("step", starts, flush=True)
if starts <= int(sys.argv[1]):
    sys.exit("ConnectionError: the feature store did not answer")
print("done", flush=True)
