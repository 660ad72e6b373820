"""What the Hugging Face hub says of a model without its weights: config.json and the headers of its safetensors files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qforge.config.job import Model
from qforge.json_files import read_json
from qforge.models.checkpoint import BYTES, Tensor


def read(model: Model) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and config of `model.hub`. Raises ValueError where the hub, the model or its safetensors cannot be had."""
    import httpx
    from huggingface_hub import get_safetensors_metadata, hf_hub_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        NotASafetensorsRepoError,
        SafetensorsParsingError,
    )
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        config = read_json(Path(hf_hub_download(str(model.hub), "config.json", revision=model.revision)))
        files = get_safetensors_metadata(str(model.hub), revision=model.revision).files_metadata
    except NotASafetensorsRepoError:
        raise ValueError(
            f"model.hub={model.hub}: it has no safetensors files; pickled weights can run code when they are loaded, so use "
            "a safe copy, or convert them with transformers' save_pretrained and give model.path=FOLDER"
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, SafetensorsParsingError, httpx.HTTPError, OSError) as error:
        raise ValueError(
            f"model.hub={model.hub}: its config and headers cannot be read ({_line(error)}); check the name, "
            "the network and HF_TOKEN, or use model.path=FOLDER or model.architecture=CONFIG_JSON"
        ) from None
    tensors = {name: (t.dtype, t.shape) for file in files.values() for name, t in file.tensors.items()}
    if odd := next((f"{name} is {dtype}" for name, (dtype, _) in tensors.items() if dtype not in BYTES), None):
        raise ValueError(f"model.hub={model.hub}: {odd}, a dtype that qforge does not know; use a bf16 checkpoint")
    return {name: Tensor(dtype, tuple(shape)) for name, (dtype, shape) in tensors.items()}, config


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
