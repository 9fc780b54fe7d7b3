"""Schedules: when, and on what fraction of the batch, the policy is updated, always inside the augmenter's call.

| schedule | policy updates | extra cost relative to distillation on two views |
|---|---|---|
| `Alternating` | K at every n-th call | K forwards and backwards of both networks on the fraction, every n-th call |
| `Joint` | one after every n-th call, from the loop's own backward | a forward and backward of the teacher, likewise |
| `Threshold` | only while the student keeps up with the hard images | those, and one or two forwards of the student |
"""

from hard_aug.schedules.alternating import Alternating
from hard_aug.schedules.base import Schedule, ScheduleRunner
from hard_aug.schedules.joint import Joint
from hard_aug.schedules.threshold import Threshold

__all__ = ["Alternating", "Joint", "Schedule", "ScheduleRunner", "Threshold"]
