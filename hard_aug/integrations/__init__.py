"""HARD inside other libraries' training loops. Each module imports its library, so none is imported here.

| library | integration |
|---|---|
| timm | `hard_aug.integrations.timm.HardDistillationTask` |
| accelerate | none required: pass the prepared student to `HardAugmenter` |
"""
