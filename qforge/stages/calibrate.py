"""Text to token sequences, once per (texts, tokenizer, lengths), with a manifest of what was taken."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from qforge.config import repository_path
from qforge.request import Refused, Request, stage


def calibrate(request: Request) -> dict[str, Any]:
    """Writes sequences.json: a list of `calib.sequences` lists of `calib.length` token ids. Returns the manifest.

    Every text is cut into consecutive sequences; exact repeats are dropped; the rest is drawn without replacement by
    `calib.seed`, each text in proportion to its length. Raises Refused where the texts are too short.
    """
    from transformers import AutoTokenizer

    calib = request.job.calib
    tokenizer = AutoTokenizer.from_pretrained(
        request.inputs["source"], trust_remote_code=request.job.model.trust_remote_code
    )
    pool: dict[tuple[int, ...], str] = {}
    texts = {}
    for name, text in calib.texts.items():
        content = repository_path(text.path).read_bytes()
        ids = tokenizer(content.decode(), add_special_tokens=False)["input_ids"]
        sequences = [tuple(ids[i : i + calib.length]) for i in range(0, len(ids) - calib.length + 1, calib.length)]
        texts[name] = {
            "path": text.path, "kind": text.kind, "licence": text.licence, "sha256": hashlib.sha256(content).hexdigest(),
            "tokens": len(ids), "sequences": len(sequences), "duplicates": len(sequences) - len(set(sequences) - pool.keys()),
        }  # fmt: skip
        for sequence in sequences:
            pool.setdefault(sequence, name)
    if len(pool) < calib.sequences:
        raise Refused(
            f"calib.sequences={calib.sequences} of {calib.length} tokens were asked for, the texts give {len(pool)}; "
            "add a text or ask for fewer or shorter ones"
        )
    drawn = random.Random(calib.seed).sample(list(pool), calib.sequences)
    for name, entry in texts.items():
        entry["used"] = sum(pool[sequence] == name for sequence in drawn)
    Path(request.out, "sequences.json").write_text(json.dumps(drawn))
    return {
        "sequences": len(drawn), "length": calib.length, "tokens": len(drawn) * calib.length, "seed": calib.seed,
        "sha256": hashlib.sha256(json.dumps(drawn).encode()).hexdigest(), "texts": texts,
    }  # fmt: skip


if __name__ == "__main__":
    stage(calibrate)
