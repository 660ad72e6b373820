"""Which of these tasks lm-eval does not have, as JSON on the last line: `python -m qforge.evaluation.task_names NAMES`.

Runs in the environment that has lm-eval. NAMES is a JSON list.
"""

import json
import sys
from difflib import get_close_matches


def faults(names: list[str]) -> list[str]:
    """One message for every name that is none of lm-eval's tasks, groups and tags."""
    from lm_eval.tasks import TaskManager

    known = TaskManager().all_tasks
    return [_fault(name, known) for name in names if name not in known]


def _fault(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, 3)
    fix = f"use {' or '.join(near)}" if near else "give one of `lm-eval ls tasks`"
    return f"eval.tasks: lm-eval has no task {name}; {fix}, a file of a task (.yaml) or one of questions (.jsonl)"


if __name__ == "__main__":
    print(json.dumps({"faults": faults(json.loads(sys.argv[1]))}))
