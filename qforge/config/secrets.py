"""Secrets are given by the name of an environment variable, ${oc.env:NAME}, and stay a name in every file that is written.

A value is a secret by its key: serve.api_key, and whatever ends in KEY, TOKEN, SECRET, PASSWORD or CREDENTIALS, as variables of
runtime.environ do. Hydra writes interpolations down as they are; the job keeps them, too, and only a process that is started
gets the value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

NAME = re.compile(r"(^|_)(api_?key|key|token|secret|password|passwd|credentials?)$", re.IGNORECASE)
REFERENCE = re.compile(r"\$\{oc\.env:(\w+)\}")
IN_URL = re.compile(r"://[^/\s:@]*:[^/\s@]+@|[?&](api_?key|key|token|secret|password)=", re.IGNORECASE)


def refuse(values: Any) -> None:
    """Refuse a secret that stands in the configuration itself. Raises ValueError: the key, never the value, and the fix."""
    for key, text in _texts(values, ""):
        name = key.rpartition(".")[2]
        if IN_URL.search(text):
            raise ValueError(
                f"{key}: the URL contains a secret, which would be written to every file of the run; remove it, and give the "
                "environment the variable that is read in its place (QFORGE_JUDGE_KEY for eval.judge.base_url, "
                "MLFLOW_TRACKING_TOKEN for tracking.uri)"
            )
        if NAME.search(name) and text and not REFERENCE.fullmatch(text):
            raise ValueError(
                f"{key}: a secret on the command line or in a file would be written to every file of the run; put it into "
                f"an environment variable and give that variable's name, {key}='${{oc.env:NAME}}'"
            )
        if name == "container_args" and any(NAME.search(part) for part in text.split("=")[:-1]):
            raise ValueError(
                f"{key}: a secret would be written to every file of the run; give only the variable's name (--env, NAME): "
                "podman or docker takes its value from the environment"
            )


def references(values: Any) -> dict[str, str]:
    """The secrets that are given by the name of a variable, by their keys."""
    return {
        key: text
        for key, text in _texts(values, "")
        if NAME.search(key.rpartition(".")[2]) and REFERENCE.fullmatch(text)
    }


def value(text: str) -> str:
    """The value that a secret stands for; any other text is itself. Raises ValueError where the variable is not set."""
    if not (match := REFERENCE.fullmatch(text)):
        return text
    if match[1] not in os.environ:
        raise ValueError(f"{text}: the environment has no variable {match[1]}; set it, or remove the reference to it")
    return os.environ[match[1]]


def revealed(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for a process, with the values of those that are secrets."""
    return {name: value(text) for name, text in environ.items()}


def _texts(values: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every value as a text, with its key; items of a list have the list's."""
    if isinstance(values, dict):
        for name, part in values.items():
            yield from _texts(part, f"{key}.{name}".lstrip("."))
    elif isinstance(values, list):
        for part in values:
            yield from _texts(part, key)
    elif values is not None:
        yield key, str(values)
