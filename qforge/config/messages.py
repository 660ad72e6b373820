"""What Hydra and OmegaConf refuse, in one line as qforge's own refusals: the key, what is wrong, the fix."""

from __future__ import annotations

import difflib
import re

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from yaml import MarkedYAMLError, YAMLError

from qforge.config import schema

LONGEST = 200  # characters of an override or a word that a message shows
DETAIL = re.compile(r"^\s*((full_key|reference_type|object_type|provider=)|See https?:|Config search path|\^\s*$)")
HYDRA = "hydra."
MERGE = "Error merging override "
GIVEN_TWICE = re.compile(r"Could not append to config\. An item is already at '(.+)'")
SWEPT = re.compile(r"Ambiguous value for argument '(.*)'")
ABSENT = re.compile(r"Could not delete from config\. '(.+)' does not exist")
OTHER = re.compile(r"Could not delete from config\. The value of '(.+)' is (.*) and not (.*)\.")
NOT_LOADED = re.compile(r"In '.+': Could not load '(.+)/(.+)'")
NAMES = re.compile(r"=\{.*:")  # a value in {}, whose names Hydra takes without quotes
NOT_TYPED = re.compile(r"dict is not a subclass of \w+")  # OmegaConf makes no entry of a type out of an override
UNKNOWN = (ConfigKeyError, ConfigAttributeError)


def message(error: Exception) -> str:
    """What was wrong, with the key and the fix, in one line."""
    if isinstance(error, YAMLError):
        return _no_yaml(error)
    if isinstance(error, OverrideParseException) and NAMES.search(error.override or ""):
        return (
            f"{shown(error.override)}: is no override: a name inside of {{}} has no quotes; put a backslash before each of its "
            "special characters, as in {block\\:3: fp8}"
        )
    if isinstance(error, OverrideParseException):
        return (
            f"{shown(error.override)}: is no override; use key=value, and put a value with special characters into quotes of "
            "its own: 'key=\"a: b\"'"
        )
    if isinstance(error, MissingConfigException):
        return _no_option(error)
    if isinstance(error, ConfigCompositionException):
        return _not_composed(error)
    if isinstance(error, OmegaConfBaseException):
        return _of_value(error)
    return shown_lines(str(error)) if isinstance(error, HydraException) else str(error)


def _no_yaml(error: YAMLError) -> str:
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return f"a file of the configuration is no YAML: {shown_lines(str(error))}; mend it"
    mark = error.problem_mark
    return f"{mark.name} line {mark.line + 1}: is no YAML: {shown_lines(str(error.problem))}; mend it"


def shown(text: str) -> str:
    """A text for one line of a message: no control characters, long words cut."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}... ({len(plain)} characters)"


def shown_lines(text: str) -> str:
    """The lines of a message as one, without where in Hydra it arose."""
    lines = [line.strip().rstrip(".") for line in text.splitlines() if line.strip() and not DETAIL.match(line)]
    return "; ".join(re.sub(r"\S{200,}", lambda word: shown(word[0]), line) for line in lines)


def _no_option(error: MissingConfigException) -> str:
    if match := NOT_LOADED.match(str(error)):
        return f"{match[1]}={match[2]}: there is no such option; run with --help for those that there are"
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    options = sorted(error.options or [])
    if not options:
        return shown_lines(str(error))
    close = difflib.get_close_matches(name, options, 1)
    guess = f"did you mean {close[0]}? " if close else ""
    return f"{group}={shown(name)}: there is no such option; {guess}choose from {', '.join(options)}"


def _not_composed(error: ConfigCompositionException) -> str:
    text, cause = str(error), error.__cause__
    if match := GIVEN_TWICE.match(text):
        return f"+{match[1]}: it has a value already; leave out the +, as in {match[1]}=VALUE"
    if match := ABSENT.match(text):
        return f"~{match[1]}: there is no such entry to remove; leave it out"
    if match := OTHER.match(text):
        return f"~{match[1]}={match[3]}: its value is {match[2]}; use ~{match[1]}"
    if match := SWEPT.match(text):
        key, _, value = match[1].partition("=")
        value = shown(value)
        return (
            f"{key}={value}: several values; add --multirun to run one after the other, or use {key}=[{value}] for a list, "
            f"\"{key}='{value}'\" for a text"
        )
    if isinstance(cause, UNKNOWN):
        return _no_key(str(cause.full_key or cause.key))
    if isinstance(cause, OmegaConfBaseException):
        override = text.removeprefix(MERGE).splitlines()[0] if text.startswith(MERGE) else ""
        return _of_value(cause, override)
    return shown_lines(text)


def _of_value(error: OmegaConfBaseException, override: str = "") -> str:
    """A value that its key does not take. `override`: what gave it, where one did."""
    given = override.partition("=")[0].lstrip("+~")
    key, wrong = str(error.full_key or given), shown_lines(str(error.msg or error))
    if override.startswith("~"):
        return f"{shown(override)}: a key of the schema cannot be removed; give it another value"
    if isinstance(error, MissingMandatoryValue):
        return f"{key}: is missing; give {key}=VALUE"
    if isinstance(error, InterpolationKeyError):
        return f"{key}: {wrong}; write a key that the configuration has, or quote the text as \\${{...}}"
    if isinstance(error, InterpolationResolutionError):
        return f"{key}: {wrong}; set it, or give a value that needs none"
    if isinstance(error, UNKNOWN):
        return _no_key(key)
    if NOT_TYPED.search(wrong):
        return (
            f"{shown(override or key)}: an entry like this cannot be added on the command line; write it into an option of "
            "your own, which `qforge init` begins, and give its folder with --config-dir"
        )
    if needed := schema.needed(key):
        return f"{shown(override or key)}: {wrong}; use {needed}"
    if key.startswith(HYDRA):
        return f"{shown(override or key)}: {wrong}; leave it out for the default"
    return f"{shown(override or key)}: {wrong}" if key else wrong


def _no_key(key: str) -> str:
    """A key that the schema does not have: what could be meant."""
    parent, _, name = key.rpartition(".")
    if key.startswith(HYDRA):
        return f"{key}: Hydra has no such key; leave it out"
    names = schema.names(parent)
    if names is None:
        return f"{key}: there is no such entry; add it with +{key}=VALUE"
    close = difflib.get_close_matches(name, names, 1)
    guess = f"did you mean {f'{parent}.{close[0]}'.lstrip('.')}? " if close else ""
    return f"{key}: there is no such key; {guess}{parent or 'a job'} has {', '.join(names)}"
