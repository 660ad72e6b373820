"""A Llama of 1.4 MB, of random weights with a few large ones as real models have, and a tokenizer of the texts in data/.

.venvs/quant/bin/python benchmarks/faults/tiny.py FOLDER [NAME=NUMBER ...]     what its config.json says otherwise

The scripts beside it make it, and that environment, where they are not there: model.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXTS = Path(__file__).resolve().parents[2] / "data/texts"
CONFIG = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32, "vocab_size": 512, "max_position_embeddings": 4096, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
TAILS = 5.0  # degrees of freedom of Student's t, by which weights are drawn
SIZE = 0.05  # of the weights, about


def make(folder: Path, **changed: int) -> None:
    """Write the checkpoint: one file, config.json, tokenizer."""
    config = LlamaConfig(**{**CONFIG, **changed}, tie_word_embeddings=False, dtype="bfloat16")
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    draw = torch.distributions.StudentT(TAILS)
    tensors = {
        name: draw.sample(weight.shape).mul(SIZE).to(torch.bfloat16) if weight.ndim == 2
        else torch.rand(weight.shape).add(0.5).to(torch.bfloat16)
        for name, weight in model.state_dict().items()
    }  # fmt: skip
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    tokens = ByteLevelBPETokenizer()
    tokens.train(sorted(map(str, TEXTS.iterdir())), vocab_size=config.vocab_size, special_tokens=["<end>"])
    PreTrainedTokenizerFast(tokenizer_object=tokens._tokenizer, eos_token="<end>", bos_token="<end>").save_pretrained(
        folder
    )
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": config.eos_token_id}))


if __name__ == "__main__":
    make(Path(sys.argv[1]), **{name: int(value) for name, _, value in (word.partition("=") for word in sys.argv[2:])})
