"""Rows of a data set as one file: text, or a conversation per line."""

from __future__ import annotations

import hashlib
import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

from qforge.envs.request import Refused, Request, stage


def dataset(request: Request) -> dict[str, Any]:
    """Writes <out>/text, of `calib.texts` the one that `inputs` names. Of the hub's files no more is read than the rows need.

    Raises Refused with the library's words where the data set, its part or its column cannot be had.
    """
    from datasets import load_dataset

    name = request.inputs["text"]
    text = request.job.calib.texts[name]
    settings = text.dataset
    assert settings
    key = f"calib.texts.{name}.dataset"
    try:
        rows = load_dataset(
            os.path.expanduser(settings.name),
            settings.config,
            split=settings.split,
            revision=settings.revision,
            streaming=True,
        )
        taken = list(islice(rows, settings.rows))
    except (OSError, ValueError, RuntimeError) as error:
        raise Refused(
            f"{key}={settings.name}: cannot be read ({(str(error).splitlines() or [type(error).__name__])[0]}); check its "
            "name, config, split and revision, the network and HF_TOKEN, or give a file instead: path"
        ) from None
    if not taken or settings.column not in taken[0]:
        raise Refused(
            f"{key}.column={settings.column}: {settings.name} has {', '.join(taken[0]) if taken else 'no rows'}"
        )
    column = [row[settings.column] for row in taken]
    if not text.chat and not all(isinstance(conversation, str) for conversation in column):
        raise Refused(
            f"{key}.column={settings.column}: is not text; give another column, or chat=true for conversations"
        )
    lines = [json.dumps({"messages": conversation}) for conversation in column] if text.chat else column
    Path(request.out, "text").write_text(content := "\n".join(lines))
    return {"rows": len(column), "sha256": hashlib.sha256(content.encode()).hexdigest(), "dataset": settings}


if __name__ == "__main__":
    stage(dataset)
