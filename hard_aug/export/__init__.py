"""LearnedAugmentation: a learned policy as an augmentation for other trainings, without teacher and student.

What was learned against one student is a distribution of augmentations under which the teacher's prediction is
unchanged. It can go into a data pipeline like `RandAugment`, after `ToImage` and before a normalisation:

```python
augmentation = augmenter.export(p=0.5)
pipeline = v2.Compose([v2.ToImage(), v2.Resize(224), augmentation, v2.ToDtype(torch.float32, scale=True)])
augmentation.save("augmentation.safetensors")  # and LearnedAugmentation.load(path): nothing is pickled
```
"""

from hard_aug.export.augmentation import LearnedAugmentation

__all__ = ["LearnedAugmentation"]
