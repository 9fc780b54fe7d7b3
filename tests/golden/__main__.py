"""Freeze the results of all cases: `python -m tests.golden`. A change that needs it says why in its commit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from tests.golden.cases import CASES
from tests.golden.machine import machine

FOLDER = Path(__file__).parent


def main() -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    arrays = {}
    for name, case in CASES.items():
        for key, value in case().items():
            value = value.detach().cpu().contiguous()
            arrays[f"{name}/{key}"] = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    np.savez_compressed(FOLDER / "frozen.npz", **arrays)
    (FOLDER / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
    print(f"froze {len(arrays)} arrays of {len(CASES)} cases")


if __name__ == "__main__":
    main()
