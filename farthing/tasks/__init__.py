"""Where problems come from: reasoning-gym, JSONL files and our own generators, split by content into train and test."""

from farthing.tasks.mixture import Curriculum, Mixture
from farthing.tasks.problem import Problem
from farthing.tasks.source import open_levels, open_task
from farthing.tasks.spec import TaskSpec, parse_spec
from farthing.tasks.task import Split, SplitTask, Task, draw, test_set

__all__ = [
    "Curriculum",
    "Mixture",
    "Problem",
    "Split",
    "SplitTask",
    "Task",
    "TaskSpec",
    "draw",
    "open_levels",
    "open_task",
    "parse_spec",
    "test_set",
]
