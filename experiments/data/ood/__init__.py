"""Published out-of-domain test sets, read from their folders, for students of the data they belong to.

| class | sets (arXiv) | files under `root` | classes |
|---|---|---|---|
| `CifarC` | CIFAR-10-C, -100-C (1903.12261) | `<corruption>.npy` (five severities in a row), `labels.npy` | index |
| `MnistC` | MNIST-C (1906.02337) | `<corruption>/test_images.npy`, `test_labels.npy` | index |
| `CorruptedFolders` | ImageNet-C, Tiny-ImageNet-C (1903.12261) | `<corruption>/<1 to 5>/<wnid>/*` | wnid |
| `IndexFolders` | ImageNet-V2 (1902.10811) | `0/*` to `999/*` | index, in the order of the wnids |
| `ClassFolders` | ImageNet-A (1907.07174), -R (2006.16241), -Sketch (1905.13549) | `<wnid>/*` | wnid |

A corrupted set gives the mean over its corruptions and severities under its `name`, and `<name>/<corruption>`, all its
severities together. All are of equal size, so that mean is 1 - mCE where mCE is not divided by another network's.
ImageNet-A and -R have 200 of the classes: a prediction is the top class of those only, as in their papers.
"""

from experiments.data.ood.arrays import CifarC, MnistC
from experiments.data.ood.base import OutOfDomain, load_sets
from experiments.data.ood.folders import ClassFolders, CorruptedFolders, IndexFolders

__all__ = ["CifarC", "ClassFolders", "CorruptedFolders", "IndexFolders", "MnistC", "OutOfDomain", "load_sets"]
