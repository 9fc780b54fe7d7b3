"""Pictures of what is transferred: galleries of hard images, and the learned distribution over training.

Wants matplotlib: `pip install 'hard_aug[viz]'`. Figures are returned, never shown; they work without a display.
"""

from hard_aug.viz.diagnosis import draw_diagnosis
from hard_aug.viz.gallery import gallery
from hard_aug.viz.policy import PolicyHistory, draw_policy

__all__ = ["PolicyHistory", "draw_diagnosis", "draw_policy", "gallery"]
