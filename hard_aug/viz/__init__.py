"""Pictures of what is transferred. Wants matplotlib: `pip install 'hard_aug[viz]'`.

Figures are returned, never shown; they work without a display, and a notebook shows one that ends a cell.

| function | what it draws |
|---|---|
| `gallery` | clean images above their hard views, with both answers |
| `draw_answers` | both players' probabilities for clean and hard images, as bars |
| `parameter_grid` | images over the range of one parameter, and where each answer changes |
| `draw_disagreement` | the distribution of the disagreement over images, before and after |
| `draw_policy` | the learned distribution over training, from a `PolicyHistory` |
| `draw_distributions` | learned distributions of several policies side by side |
| `draw_diagnosis` | how often each player keeps its answer over each range, from `hard_aug.diagnose` |
"""

from hard_aug.viz.answers import draw_answers
from hard_aug.viz.diagnosis import draw_diagnosis
from hard_aug.viz.disagreement import draw_disagreement
from hard_aug.viz.distribution import draw_distributions
from hard_aug.viz.gallery import gallery
from hard_aug.viz.grid import parameter_grid
from hard_aug.viz.policy import PolicyHistory, draw_policy

__all__ = [
    "PolicyHistory",
    "draw_answers",
    "draw_diagnosis",
    "draw_disagreement",
    "draw_distributions",
    "draw_policy",
    "gallery",
    "parameter_grid",
]
