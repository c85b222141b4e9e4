"""The parser names choices without importing what they choose among; they must be the same."""

from __future__ import annotations

from typing import get_args

from unimedvl.infer.__main__ import parser
from unimedvl.infer.sampling import PRESETS, RENORMS, SOLVERS
from unimedvl.infer.tasks import EDIT_MODES, SUBTASKS, TASKS
from unimedvl.model.directory import WeightSet


def choices(task):
    (tasks,) = (action for action in parser()._actions if action.dest == "task")
    return {action.dest: action.choices for action in tasks.choices[task]._actions if action.choices}


def test_choices_are_those_of_the_code():
    given = choices("edit")
    assert set(given["subtask"]) == set(SUBTASKS)
    assert set(given["mode"]) == set(EDIT_MODES)
    assert set(given["solver"]) == set(SOLVERS)
    assert set(given["renorm"]) == set(RENORMS)
    assert set(given["preset"]) == set(PRESETS)
    assert set(given["weights"]) == set(get_args(WeightSet))


def test_every_task_has_a_command():
    (tasks,) = (action for action in parser()._actions if action.dest == "task")
    assert set(tasks.choices) == {*TASKS, "chat", "batch"}
