"""Which of these tasks lm-eval does not have, or would not run: `python -m qforge.evaluation.task_names NAMES`.

Runs in the environment that has lm-eval. NAMES is a JSON list; the answer is JSON on the last line.
"""

import json
import sys
from difflib import get_close_matches


def faults(names: list[str]) -> list[str]:
    """One message for every name that is none of lm-eval's tasks, groups and tags, or whose code nothing would hold."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    unknown = [_unknown(name, manager.all_tasks) for name in names if name not in manager.all_tasks]
    entries = {name: manager.task_index[name].cfg or {} for name in names if name in manager.task_index}
    return [*unknown, *(_unsafe(name) for name, task in entries.items() if task.get("unsafe_code"))]


def _unsafe(name: str) -> str:
    return (
        f"eval.tasks: {name}: lm-eval would run the code that the model writes outside of a sandbox; leave it out, or ask by a "
        "file of questions with tests, as data/tasks/python_functions.jsonl, which are run in bubblewrap"
    )


def _unknown(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, 3)
    fix = f"use {' or '.join(near)}" if near else "give one of `lm-eval ls tasks`"
    return f"eval.tasks: lm-eval has no task {name}; {fix}, a file of a task (.yaml) or one of questions (.jsonl)"


if __name__ == "__main__":
    print(json.dumps({"faults": faults(json.loads(sys.argv[1]))}))
