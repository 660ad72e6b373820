"""Which of transformers' automatic classes opens a model. Runs where transformers is."""

from __future__ import annotations

from typing import Any


def automatic(config: Any) -> Any:
    """AutoModelForCausalLM, or the one for text and images for a type that only that one knows."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    text, images = AutoModelForCausalLM, AutoModelForImageTextToText
    return images if type(config) not in text._model_mapping and type(config) in images._model_mapping else text


def opened(folder: Any, trusted: bool, **options: Any) -> Any:
    """The model in a folder in bf16; of one made of several stages the one that reads and writes text. `options`: of
    from_pretrained."""
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
    config = getattr(config, "thinker_config", config)
    loads = automatic(config).from_pretrained
    return loads(folder, config=config, dtype=torch.bfloat16, trust_remote_code=trusted, **options).eval()
