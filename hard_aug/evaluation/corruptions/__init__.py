"""The 15 common corruptions at five severities (Hendrycks and Dietterich, arXiv:1903.12261), for images of any source.

| module | corruptions |
|---|---|
| `noise` | gaussian_noise, shot_noise, impulse_noise |
| `blur`, `glass`, `motion` | defocus_blur, zoom_blur; glass_blur; motion_blur |
| `weather` | snow, frost, fog |
| `tone`, `elastic`, `digital` | brightness, contrast; elastic_transform; pixelate, jpeg_compression |
| `severities` | the published parameters |

Where these differ from the published scripts: frost is a procedural texture in place of photographs (`weather`), the
random numbers are of other generators, and small images take the parameters of CIFAR-10-C, medium ones those of
Tiny-ImageNet-C, large ones those of ImageNet-C.
"""

from hard_aug.evaluation.corruptions.corrupt import corrupt
from hard_aug.evaluation.corruptions.severities import NAMES, SEVERITIES

__all__ = ["NAMES", "SEVERITIES", "corrupt"]
