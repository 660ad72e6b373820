"""The formats of a mix: what the methods that it names make, read from conf/method/."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from qforge.config.method import BF16, Method, Scheme
from qforge.config.places import option_files


def of(method: Method) -> dict[str, Scheme]:
    """By the values of method.formats and method.candidates, bf16 left out: NAME, or NAME:GROUP for one of several group sizes.

    Raises ValueError for what is no method that streams, or no group.
    """
    given = {f"method.formats.{part}": value for part, value in method.formats.items()}
    given |= {f"method.candidates[{number}]": value for number, value in enumerate(method.candidates)}
    return {value: _read(key, value) for key, value in given.items() if value != BF16}


def _read(key: str, value: str) -> Scheme:
    name, _, group = value.partition(":")
    if not _mixes(name):
        names = ", ".join([BF16, *(other for other in sorted(option_files("method")) if _mixes(other))])
        raise ValueError(f"{key}={value}: is no method whose weights stream; use one of {names}")
    if ":" in value and not group.removeprefix("-").isdecimal():
        raise ValueError(f"{key}={value}: {group!r} is no group size; use {name}:64, or {name} alone")
    method = _method(name, int(group) if group else None)
    return Scheme(method["format"], int(group) if group else method.get("group_size"), method.get("args") or {})


def _mixes(name: str) -> bool:
    """Whether a method streams one format."""
    if name not in option_files("method"):
        return False
    method = _method(name, None)
    return bool(method.get("streams")) and "QuantizationModifier" in (method.get("args") or {})


def _method(name: str, group: int | None) -> dict[str, Any]:
    """The file of a method, as it would be composed with this group size; without one, with its own."""
    own = OmegaConf.merge({"group_size": None}, OmegaConf.load(option_files("method")[name]))
    composed = OmegaConf.create({"method": own, "group_size": group if group is not None else "${method.group_size}"})
    resolved: Any = OmegaConf.to_container(composed, resolve=True)
    return dict(resolved["method"])
