"""Which of transformers' automatic classes opens a model. Runs where transformers is."""

from __future__ import annotations

from typing import Any


def automatic(config: Any) -> Any:
    """AutoModelForCausalLM, or the one for text and images for a type that only that one knows."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    text, images = AutoModelForCausalLM, AutoModelForImageTextToText
    return images if type(config) not in text._model_mapping and type(config) in images._model_mapping else text
