"""What a thinker hands to its talker: the hidden states of one of its layers, a checkpoint's beside the source's on one text.

The talker takes them where the conversation has sound and pictures; what is text it takes from the embedding, which no method
quantizes (transformers, modeling_qwen3_omni_moe.py, _get_talker_user_parts).
"""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig

from qforge.config.places import given_path
from qforge.envs.request import Request, stage
from qforge.evaluation.tokenizer import load
from qforge.methods import rewriting
from qforge.models import checkpoint, quantization_config, quantized_source
from qforge.stages import classes
from qforge.stages.quantize import copy_companions

TOKENS = 512  # at most, of the questions that are asked aloud


def handed(request: Request) -> dict[str, Any]:
    """Returns `layer`, `tokens`, and of the cosines between the two, one per token, the mean and the least.

    Inputs: `source` and `artifact`, of which what is packed is unpacked to bf16 first: no class of transformers reads packed
    experts. The embedding is layer 0.
    """
    source, artifact = (Path(request.inputs[name]) for name in ("source", "artifact"))
    tokenizer = load(str(source), request.job)
    text = given_path(request.job.eval.speech.questions).read_text()
    tokens = torch.tensor([tokenizer(text)["input_ids"][:TOKENS]])
    unpacked = Path(request.out, "unpacked")
    layer, theirs = _states(_plain(source, unpacked / "source"), tokens, request)
    _, ours = _states(_plain(artifact, unpacked / "artifact"), tokens, request)
    shutil.rmtree(unpacked, ignore_errors=True)
    cosines = torch.cosine_similarity(ours, theirs, -1)
    return {
        "layer": layer,
        "tokens": tokens.shape[1],
        "mean": float(cosines.mean()),
        "least": float(cosines.min()),
        "library": f"transformers {transformers.__version__}",
    }


def _plain(folder: Path, out: Path) -> Path:
    """The checkpoint as transformers reads it: itself, or what it is unpacked to in `out`."""
    if quantized_source.recognize(checkpoint.headers(folder), quantization_config.read(folder)) is None:
        return folder
    rewriting.unpack(folder, out)
    copy_companions(folder, out)
    return out


def _states(folder: Path, tokens: torch.Tensor, request: Request) -> tuple[int, torch.Tensor]:
    """The layer that the talker's configuration names, and the thinker's float32 hidden states there: [tokens, hidden_size]."""
    trusted = request.job.model.trust_remote_code
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
    layer = int(config.talker_config.accept_hidden_layer)
    named = classes.of_its_own(config)
    assert named is not None, "the plan knows what speaks"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = named.from_pretrained(folder, dtype=torch.bfloat16).eval()
    thinker = classes.speaker(model).to(device)
    with torch.inference_mode():
        said = thinker(input_ids=tokens.to(device), output_hidden_states=True, use_cache=False, return_dict=True)
    states: torch.Tensor = said.hidden_states[layer][0].float().cpu()
    del model, thinker, said
    gc.collect()
    return layer, states


if __name__ == "__main__":
    stage(handed)
