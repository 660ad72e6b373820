"""One format for each part, of least loss within a size: a multiple-choice knapsack, solved as a mixed-integer program.

scipy.optimize.milp (HiGHS, Huangfu and Hall 2018, doi 10.1007/s12532-017-0130-5) proves its answer optimal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from qforge.envs.request import Request, stage
from qforge.json_files import read_json

GAP = 1e-6  # of the loss, at most: between the answer and what is proven


def allocation(request: Request) -> dict[str, Any]:
    """`problem`, a JSON file: `parts`, of each its [bytes, loss] by format, and `sizes`, in bytes.

    Returns for each size what is chosen for each part.
    """
    problem = read_json(Path(request.inputs["problem"]))
    return {"chosen": [chosen(problem["parts"], size) for size in problem["sizes"]]}


def chosen(parts: list[dict[str, list[float]]], size: float) -> list[str]:
    """The format of each part: the sum of losses is least among all whose sum of bytes is at most `size`."""
    names = [(place, name) for place, part in enumerate(parts) for name in part]
    count, rows = len(names), [place for place, _ in names]
    each = csr_array((np.ones(count), (rows, range(count))), shape=(len(parts), count))
    sizes, losses = (np.array([parts[place][name][which] for place, name in names], float) for which in (0, 1))
    unit, most = float(sizes.max()), float(losses.max()) or 1.0  # the solver's tolerances are for numbers near 1
    answer = milp(
        losses / most, integrality=1, bounds=Bounds(0, 1), options={"mip_rel_gap": GAP},
        constraints=[LinearConstraint(each, 1, 1), LinearConstraint(sizes[None] / unit, -np.inf, size / unit)],
    )  # fmt: skip
    assert answer.success, answer.message
    taken = {place: name for (place, name), x in zip(names, answer.x, strict=True) if x > 0.5}
    return [taken[place] for place in range(len(parts))]


if __name__ == "__main__":
    stage(allocation)
