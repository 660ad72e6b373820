"""A checkpoint that is published quantized: how each of its matrices is packed, and what it is unpacked.

Names, dtypes and shapes decide (packed_kinds.py), so a checkpoint whose config.json is silent is known as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qforge.models import quantization_config
from qforge.models.checkpoint import Tensor
from qforge.models.formats import FORMATS
from qforge.models.packed_kinds import PLAIN, Kind, columns_of, kind_of

FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")  # ModelOpt's, GPTQ's and AWQ's
EIGHT = ("F8_E4M3", "F8_E5M2")  # which nothing but packed weights is in
PACKED = (*EIGHT, "U8", "I8", "I32")
# A suffix of the packed weights -> what the tensors beside it are called, by their names in compressed-tensors
BESIDE: dict[str, dict[str, tuple[str, ...]]] = {
    ".weight_packed": {
        name: (f".{name}",)
        for name in ("weight_scale", "weight_global_scale", "weight_zero_point", "weight_shape", "weight_g_idx")
    },
    ".weight": {
        "weight_scale": (".weight_scale_inv", ".weight_scale", ".scale"),
        "weight_scale_2": (".weight_scale_2",),
        "weight_zero_point": (".weight_zero_point",),
    },
    "_blocks": {"weight_scale": ("_scales",)},
    "": {"weight_scale": ("_scale_inv", "_scale")},  # experts in one tensor, in FP8
}
# What no weight needs: scales of activations and of the KV cache
SERVING = (
    ".input_scale", ".input_global_scale", ".input_zero_point", ".output_scale", ".activation_scale", ".k_scale", ".v_scale",
    ".q_scale", ".kv_scale", ".k_zero_point", ".v_zero_point",
)  # fmt: skip
LEFTOVERS = tuple(
    suffix for parts in BESIDE.values() for suffixes in parts.values() for suffix in suffixes if suffix != "_scale"
)
# What is not unpacked here: suffix of a tensor -> who packs so. They are made from a checkpoint that is published, too
OTHERS = {
    ".qweight": "GPTQ or AWQ", ".weight.absmax": "bitsandbytes", ".SCB": "bitsandbytes", ".W_q": "HQQ", ".biases": "MLX",
    ".pre_quant_scale": "ModelOpt's AWQ, whose weights belong to scaled inputs", ".bitmask": "compressed-tensors, sparse",
}  # fmt: skip
UNPACKED = (
    "compressed-tensors",
    "modelopt",
    "fp8",
    "fbgemm_fp8",
    "mxfp4",
)  # by config.json; tensors decide, where they are known
ORIGINAL = "give the bf16 model that it was made from (mostly base_model in its README), and this one as artifact=PATH"


@dataclass(frozen=True)
class Packed:
    """A matrix of the source, or a stack of them. `parts`: its tensors, by their names in compressed-tensors."""

    kind: Kind
    plain: Tensor  # what it is unpacked
    parts: Mapping[str, str]
    turned: bool = False  # whether what it is unpacked lies as [in_features, out_features]

    @property
    def rows(self) -> int:
        """Outputs of a matrix, or of each of a stack."""
        return self.plain.shape[-1 if self.turned else -2]

    @property
    def columns(self) -> int:
        """Inputs of a matrix, or of each of a stack."""
        return self.plain.shape[-2 if self.turned else -1]


@dataclass(frozen=True)
class Packing:
    """All that is packed in a checkpoint, by the names of what it is unpacked; `unused`: tensors that bf16 has no use for."""

    matrices: dict[str, Packed] = field(default_factory=dict)
    unused: frozenset[str] = frozenset()
    method: str | None = None  # quant_method in its config.json

    def plain(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the same model in bf16."""
        first = {name: plain for plain, packed in self.matrices.items() for name in packed.parts.values()}
        names = dict.fromkeys(first.get(name, name) for name in tensors if name not in self.unused)
        return {name: self.matrices[name].plain if name in self.matrices else tensors[name] for name in names}

    @property
    def summary(self) -> str:
        """Which formats, for people, the commonest first."""
        counted = Counter(packed.kind.name for packed in self.matrices.values())
        return ", ".join(f"{name} ({count} tensor{'s' * (count > 1)})" for name, count in counted.most_common())

    @property
    def served(self) -> tuple[str, int | None] | None:
        """The layout of formats.FORMATS, and the group size, that it is served like; none for one of several, or of others."""
        kinds = {(packed.kind.layout, packed.kind.group) for packed in self.matrices.values()}
        layout, group = next(iter(kinds)) if len(kinds) == 1 else (None, None)
        if layout is None:
            return None
        return layout, (group or -1) if FORMATS[layout].group_sizes else None


def recognize(tensors: Mapping[str, Tensor], config: dict[str, Any], beside: Sequence[str] = ()) -> Packing | None:
    """How the checkpoint is packed; none for a plain one. `config`: config.json, complete; `beside`: names of its other files.

    Raises ValueError, which begins with what is wrong, for what cannot be unpacked.
    """
    quantization = quantization_config.announced(config)
    matrices = {}
    for suffix, other in OTHERS.items():
        if name := next((name for name in tensors if name.endswith(suffix)), None):
            raise ValueError(_not_unpacked(other, name))
    for name, tensor in tensors.items():
        if tensor.dtype not in PLAIN and (packed := _packed(name, tensor, tensors, quantization)):
            matrices[packed[0]] = packed[1]
    used = {part for packed in matrices.values() for part in packed.parts.values()}
    unused = frozenset(name for name in tensors if name.endswith(SERVING))
    for name, tensor in tensors.items():
        if name in used or name in unused or _own_scale(name, tensor, tensors):
            continue
        packs = tensor.dtype in PACKED if name.endswith(".weight") else tensor.dtype in EIGHT
        if _left_over(name, tensors) or (packs and len(tensor.shape) > 1):
            raise ValueError(f"{name} is {_said(tensor)}, which is of no format that is unpacked here; {ORIGINAL}")
    if matrices:
        return Packing(matrices, unused, quantization.get("quant_method"))
    if quantization and (odd := next((n for n, t in tensors.items() if t.shape and t.dtype not in PLAIN), None)):
        raise ValueError(_not_unpacked(f"{quantization.get('quant_method') or 'others'}", odd))
    if quantization or (files := [name for name in FILES if name in beside]):
        where = "quantization_config" if quantization else files[0]
        raise ValueError(
            f"it has a {where}, and its weights are plain: it was never packed, or packed weights are missing; delete "
            f"{where} where the weights are the model's own, else use another copy"
        )
    return None


def _left_over(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether it belongs to a packed weight. A `.scale` without a weight is a parameter of its own (Qwen3-Omni's code2wav)."""
    if name.endswith(".scale"):
        return f"{name.removesuffix('.scale')}.weight" in tensors
    return name.endswith(LEFTOVERS)


def announced(config: dict[str, Any]) -> str | None:
    """What config.json alone says, where no tensors are at hand. Raises ValueError for what is not unpacked here."""
    method = quantization_config.announced(config).get("quant_method")
    if method and method not in UNPACKED:
        raise ValueError(_not_unpacked(str(method), "config.json"))
    return str(method) if method else None


def _not_unpacked(other: str, where: str) -> str:
    return f"it is quantized by {other} ({where}), which is not unpacked here; {ORIGINAL}"


def _packed(
    name: str, tensor: Tensor, tensors: Mapping[str, Tensor], quantization: dict[str, Any]
) -> tuple[str, Packed] | None:
    """The matrix whose packed weights `name` holds, and its plain name; none for any other tensor."""
    suffix = next((suffix for suffix in (".weight_packed", ".weight", "_blocks") if name.endswith(suffix)), "")
    stem = name.removesuffix(suffix)
    beside = {
        part: found
        for part, names in BESIDE[suffix].items()
        if (found := next((f"{stem}{n}" for n in names if f"{stem}{n}" in tensors), None))
    }
    if "weight_scale" not in beside or not (_matrix(tensor) or len(tensor.shape) in (3, 4)):
        return None
    parts = {"weight_packed" if suffix in (".weight_packed", "_blocks") else "weight": name, **beside}
    held = {part: tensors[other] for part, other in parts.items()}
    activations = any(f"{stem}.{scale}" in tensors for scale in ("input_scale", "input_global_scale"))
    kind = kind_of(held, activations, quantization)
    if kind is None:
        scales = ", ".join(f"{tensors[other].dtype}{list(tensors[other].shape)}" for other in beside.values())
        raise ValueError(
            f"{name} is {_said(tensor)}, with scales {scales}: no format that is unpacked here; {ORIGINAL}"
        )
    if suffix == "_blocks":  # [experts, outputs, groups, bytes]: as transformers unpacks it (integrations/mxfp4.py)
        experts, rows, groups, half = tensor.shape
        return stem, Packed(kind, Tensor("BF16", (experts, groups * half * 2, rows)), parts, turned=True)
    plain = f"{stem}.weight" if suffix else stem
    return plain, Packed(kind, Tensor("BF16", (*tensor.shape[:-1], columns_of(held, kind))), parts)


def _own_scale(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> bool:
    """A parameter of the model that is called scale, beside no weight: Qwen3-Omni's code2wav scales its layers' outputs."""
    stem = name.removesuffix(".scale")
    return stem != name and tensor.dtype in PLAIN and f"{stem}.weight" not in tensors


def _matrix(tensor: Tensor) -> bool:
    return len(tensor.shape) == 2


def _said(tensor: Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}"
