"""Tasks of the experiments, and what their test sets are made with."""

from experiments.tasks.groups import Groups
from experiments.tasks.random_views import random_views
from experiments.tasks.shifts import random_shift, shift, shifted_test_sets
from experiments.tasks.tasks import Corruption, InvarianceTask, Plain, Shift, Task

__all__ = [
    "Corruption",
    "Groups",
    "InvarianceTask",
    "Plain",
    "Shift",
    "Task",
    "random_shift",
    "random_views",
    "shift",
    "shifted_test_sets",
]
