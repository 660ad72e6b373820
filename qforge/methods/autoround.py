"""AutoRound: INT4 whose rounding is learnt block by block. The method's `args` are options of its AutoRound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer

from qforge.config.job import Job

FORMAT = "llm_compressor"  # compressed-tensors, which vLLM and transformers both read


def quantize(job: Job, source: Path, out: Path, exempt: list[str], sequences: list[list[int]] | None) -> dict[str, Any]:
    """Quantize `source` into a compressed-tensors checkpoint in `out`; returns the options as they were run.

    It wants sequences of one length: longer ones are cut at that of the shortest.
    """
    tokens = sequences or []
    length = min(map(len, tokens))
    pieces = [torch.tensor([s[i : i + length]]) for s in tokens for i in range(0, len(s) - length + 1, length)]
    plain = {"bits": 16, "data_type": "fp"}
    options = {**job.method.args, "group_size": job.group_size}
    trusted = {"trust_remote_code": job.model.trust_remote_code}
    rounded = AutoRound(
        AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, **trusted),
        AutoTokenizer.from_pretrained(source, **trusted),
        layer_config={name: plain for name in exempt if name != "lm_head"},  # a head that is named is quantized
        dataset=pieces,
        nsamples=len(pieces),
        seqlen=length,
        **options,
    )
    saved = out.parent / "autoround"
    rounded.quantize_and_save(str(saved), format=FORMAT)
    (folder,) = saved.iterdir()  # which it names after the model
    folder.rename(out)
    saved.rmdir()
    return options
