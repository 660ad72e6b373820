"""Text to token sequences, once per (texts, tokenizer, lengths), with a manifest of what was taken."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from qforge.config.calibration import Calibration, CalibrationText
from qforge.envs.request import Refused, Request, stage
from qforge.evaluation.tokenizer import load

RUN = 8  # tokens in a row that say two sequences overlap
NEAR = 0.5  # the part of a sequence's runs that others have already, from which it is a near-duplicate

Sequence = tuple[int, ...]


def calibrate(request: Request) -> dict[str, Any]:
    """Writes sequences.json: `calib.sequences` lists of token ids, of the texts in `inputs`. Returns the manifest.

    Every text is cut into consecutive sequences, of `calib.lengths` in turn; repeats and near-duplicates are dropped; the rest
    is drawn without replacement by `calib.seed`. Raises Refused where the texts are too short.
    """
    calib = request.job.calib
    tokenizer = load(request.inputs["source"], request.job)
    pools: dict[str, list[Sequence]] = {}
    texts, runs = {}, set[Sequence]()
    for name, text in calib.texts.items():
        content = Path(request.inputs[f"text {name}"]).read_bytes()
        ids = _tokens(tokenizer, name, text, content.decode())
        sequences = list(_cut(ids, calib))
        different = list(dict.fromkeys(sequences))
        pools[name] = [sequence for sequence in different if not _known(sequence, runs)]
        texts[name] = {
            "path": text.path, "dataset": text.dataset, "kind": text.kind, "licence": text.licence,
            "sha256": hashlib.sha256(content).hexdigest(),
            "tokens": len(ids), "sequences": len(sequences), "duplicates": len(sequences) - len(different),
            "near_duplicates": len(different) - len(pools[name]),
        }  # fmt: skip
    drawn = _draw(pools, calib)
    for name, entry in texts.items():
        used = set(pools[name]) & set(drawn)
        entry |= {"used": len(used), "used_tokens": sum(map(len, used))}
    Path(request.out, "sequences.json").write_text(json.dumps(drawn))
    return {
        "sequences": len(drawn), "length": calib.length, "lengths": Counter(map(len, drawn)),
        "tokens": sum(map(len, drawn)), "seed": calib.seed,
        "sha256": hashlib.sha256(json.dumps(drawn).encode()).hexdigest(), "texts": texts,
    }  # fmt: skip


def _tokens(tokenizer: Any, name: str, text: CalibrationText, content: str) -> list[int]:
    if not text.chat:
        ids: list[int] = tokenizer(content, add_special_tokens=False)["input_ids"]
        return ids
    if not tokenizer.chat_template:
        raise Refused(f"calib.texts.{name}.chat: this model has no chat template; leave that text out")
    ids = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            messages = json.loads(line)["messages"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise Refused(
                f'calib.texts.{name}: line {number} is not {{"messages": [...]}}; give a conversation per line'
            ) from None
        conversation = tokenizer.apply_chat_template(messages, tokenize=False)
        ids += tokenizer(conversation, add_special_tokens=False)["input_ids"]
    return ids


def _cut(ids: list[int], calib: Calibration) -> Iterator[Sequence]:
    begin = 0
    for part in cycle(calib.lengths):
        end = begin + int(part * calib.length)
        if end > len(ids):
            return
        yield tuple(ids[begin:end])
        begin = end


def _known(sequence: Sequence, runs: set[Sequence]) -> bool:
    """Whether earlier sequences have most of this one; if not, `runs` knows it from now on."""
    own = {sequence[i : i + RUN] for i in range(max(1, len(sequence) - RUN + 1))}
    if len(own & runs) > NEAR * len(own):
        return True
    runs |= own
    return False


def _draw(pools: dict[str, list[Sequence]], calib: Calibration) -> list[Sequence]:
    """From all texts together or, where they have weights, from each its share."""
    chosen = random.Random(calib.seed)
    weights = {name: text.weight for name, text in calib.texts.items() if text.weight is not None}
    if not weights:
        return _sample(chosen, [sequence for pool in pools.values() for sequence in pool], calib.sequences, calib)
    bounds = [
        round(calib.sequences * sum(list(weights.values())[:i]) / sum(weights.values()))
        for i in range(len(weights) + 1)
    ]
    drawn = [
        sequence
        for name, begin, end in zip(weights, bounds, bounds[1:], strict=False)
        for sequence in _sample(chosen, pools[name], end - begin, calib, f" by calib.texts.{name}.weight")
    ]
    chosen.shuffle(drawn)
    return drawn


def _sample(
    chosen: random.Random, pool: list[Sequence], count: int, calib: Calibration, why: str = ""
) -> list[Sequence]:
    if len(pool) < count:
        raise Refused(
            f"calib.sequences={calib.sequences} of {calib.length} tokens: {count} were requested{why}, the texts give "
            f"{len(pool)}; add a text or ask for fewer or shorter ones"
        )
    return chosen.sample(pool, count)


if __name__ == "__main__":
    stage(calibrate)
