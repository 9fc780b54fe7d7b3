"""Figures of hard images, learned distributions and diagnoses. Requires matplotlib: `pip install 'hard_aug[viz]'`.

Functions return figures and never show them. They work without a display; a notebook shows a figure that ends a cell.

| function | figure |
|---|---|
| `gallery` | the hardest images of a batch, clean and hard, with the predictions of the teacher and of students |
| `draw_predictions` | both networks' class probabilities for clean and hard images, as bars |
| `parameter_grid` | images over the range of one parameter, and where each prediction changes |
| `draw_disagreement` | histograms of the disagreement over images, before and after training |
| `draw_policy` | the learned distribution during training, from a `PolicyHistory` |
| `draw_distributions` | learned distributions of several policies side by side |
| `draw_diagnosis` | fraction of unchanged predictions over each range, from `hard_aug.diagnose` |
| `draw_calibration` | the part of each range that a teacher tolerates, from `hard_aug.calibrate` |
| `draw_summary` | the ranges a policy draws from, and how often it uses each group, from `HardAugmenter.summary` |
"""

from hard_aug.viz.calibration import draw_calibration
from hard_aug.viz.diagnosis import draw_diagnosis
from hard_aug.viz.disagreement import draw_disagreement
from hard_aug.viz.distribution import draw_distributions
from hard_aug.viz.gallery import gallery
from hard_aug.viz.grid import parameter_grid
from hard_aug.viz.policy import PolicyHistory, draw_policy
from hard_aug.viz.predictions import draw_predictions
from hard_aug.viz.summary import draw_summary

__all__ = [
    "PolicyHistory",
    "draw_calibration",
    "draw_diagnosis",
    "draw_disagreement",
    "draw_distributions",
    "draw_policy",
    "draw_predictions",
    "draw_summary",
    "gallery",
    "parameter_grid",
]
