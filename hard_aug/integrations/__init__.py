"""HARD inside other libraries' training loops. Each module imports its library, so none is imported here.

| library | what there is |
|---|---|
| timm | `hard_aug.integrations.timm.HardDistillationTask` |
| accelerate | nothing is needed: pass the prepared student, and `augmenter.step()` when `accelerator.sync_gradients` |
"""
