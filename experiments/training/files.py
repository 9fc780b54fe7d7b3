"""Names of the files in a run's folder, and writing JSON atomically."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

RECORD, STUDENT, CONFIG = "metrics.json", "student.pt", "config.yaml"


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: a kill at any moment leaves either the old file or the new one."""
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    unfinished.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(path)
