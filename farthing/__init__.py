"""farthing trains reasoning models the way DeepSeek-R1 was trained, and accounts for every farthing of it."""

import os

__version__ = "0.1.0"

# PyTorch's OpenMP threads spin for about a millisecond before they sleep, and where another process wants the cores too, that
# millisecond is lost at every product: two runs side by side took over ten times as long as one. Read when torch is loaded.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
    os.environ["GOMP_SPINCOUNT"] = "1000"
