"""Calls of functions, as the server's own parser hands them out, held against the function's schema and the call wanted.

- right_call: exactly one call, of the wanted function, with valid arguments that have every wanted value; where none is
  wanted, no call
- right_function: the first call is of the wanted function; where none is wanted, no call
- valid: every call is of a function that there is, its arguments are JSON and keep its schema; without a call 0, where one is
  wanted

Of JSON Schema `type`, `required`, `enum`, `properties`, `items` and additionalProperties=false count. Values are equal as
JSON's are; of texts neither case nor white space around them counts. A wanted value {"any_of": [...]} may be each of these.
"""

from __future__ import annotations

import json
from typing import Any

Tool = dict[str, Any]  # a function as OpenAI's API has it: name, description, parameters

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "array": (list,), "object": (dict,),
    "null": (type(None),),
}  # fmt: skip
# What vLLM is told where a model's file does not say it; the name is of the parser, of which each family has its own
PARSER = "+model.args.enable_auto_tool_choice=true +model.args.tool_call_parser=hermes"
# How a model is told of its functions whose template does not: in the words of the Hermes format, which vLLM's parser reads
TOLD = (
    "You may call one or more functions to assist with the user query. You are given their signatures within "
    "<tools></tools> tags:\n<tools>\n{tools}\n</tools>\nFor each call return a JSON object with the function's name and its "
    'arguments within <tool_call></tool_call> tags:\n<tool_call>\n{{"name": NAME, "arguments": ARGUMENTS}}\n</tool_call>'
)


def told(tools: list[Tool]) -> str:
    """What a model is told of its functions."""
    return TOLD.format(tools="\n".join(json.dumps({"type": "function", "function": tool}) for tool in tools))


def scores(tools: list[Tool], wanted: dict[str, Any] | None, calls: list[dict[str, Any]]) -> dict[str, float]:
    """The metrics of an answer's calls, each {"name": ..., "arguments": JSON as a text}."""
    schemas = {tool["name"]: tool.get("parameters") or {} for tool in tools}
    given = [(call["name"], _json(call["arguments"])) for call in calls]
    valid = all(name in schemas and keeps(schemas[name], arguments) for name, arguments in given)
    if wanted is None:
        return {"right_call": float(not calls), "right_function": float(not calls), "valid": float(valid)}
    named = bool(given) and given[0][0] == wanted["name"]
    right = named and valid and len(given) == 1 and _has(given[0][1], wanted["arguments"])
    return {"right_call": float(right), "right_function": float(named), "valid": float(valid and bool(given))}


def keeps(schema: dict[str, Any], value: Any) -> bool:
    """Whether a value keeps the part of JSON Schema that the module's docstring names."""
    kinds = schema.get("type", list(TYPES))
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if not any(_is(value, kind) for kind in kinds) or ("enum" in schema and value not in schema["enum"]):
        return False
    if isinstance(value, list):
        return all(keeps(schema.get("items", {}), item) for item in value)
    if isinstance(value, dict):
        known = schema.get("properties", {})
        closed = schema.get("additionalProperties") is False and any(name not in known for name in value)
        missing = any(name not in value for name in schema.get("required", []))
        return not closed and not missing and all(keeps(known.get(name, {}), item) for name, item in value.items())
    return True


def refuse(tool: Any) -> None:
    """Raises ValueError for what is no function as the module's docstring has it, and for a schema that nothing would keep."""
    if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
        raise ValueError("call needs tools, a list of functions as OpenAI's API has them, each with a name")
    if not isinstance(tool.get("description") or "", str):
        raise ValueError(f"description of {tool['name']} is no text; give one, or leave it out")
    if fault := _fault(tool.get("parameters") or {}):
        raise ValueError(f"parameters of {tool['name']} is no JSON Schema: {fault}; mend it, or leave it out")


def _fault(schema: Any) -> str | None:
    """The first thing in a schema that `keeps` cannot read."""
    if not isinstance(schema, dict):
        return f"{json.dumps(schema):.60} is no object"
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if not isinstance(kind, str) or kind not in TYPES:
            return f"type {json.dumps(kind):.60} is unknown, choose from {', '.join(TYPES)}"
    for name, form in (("properties", dict), ("required", list), ("enum", list)):
        if not isinstance(schema.get(name, form()), form):
            return f"{name} is no {'object' if form is dict else 'list'}"
    inner = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
    return next((fault for one in inner if (fault := _fault(one))), None)


def unreachable(tool: Tool, wanted: dict[str, Any]) -> str | None:
    """The first wanted argument that no call could have which keeps the function's schema; none where all can be."""
    known = (tool.get("parameters") or {}).get("properties", {})
    closed = (tool.get("parameters") or {}).get("additionalProperties") is False
    for name, value in wanted.items():
        if (closed and name not in known) or not _possible(known.get(name, {}), value):
            return f"{tool['name']} takes no {name} of {json.dumps(value):.100}"
    return None


def _possible(schema: dict[str, Any], wanted: Any) -> bool:
    """Whether a value that keeps the schema may be equal to what is wanted."""
    if isinstance(wanted, dict) and wanted.keys() == {"any_of"}:
        return isinstance(wanted["any_of"], list) and any(_possible(schema, one) for one in wanted["any_of"])
    if isinstance(wanted, dict):
        known = schema.get("properties", {})
        return keeps({"type": schema.get("type", "object")}, {}) and all(
            _possible(known.get(name, {}), value) for name, value in wanted.items()
        )
    if isinstance(wanted, str) and "enum" in schema:
        return any(_equal(one, wanted) for one in schema["enum"])
    return keeps(schema, wanted)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, TYPES.get(kind, ()))


def _has(arguments: Any, wanted: dict[str, Any]) -> bool:
    return isinstance(arguments, dict) and all(
        name in arguments and _equal(arguments[name], value) for name, value in wanted.items()
    )


def _equal(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict) and wanted.keys() == {"any_of"}:
        return any(_equal(value, one) for one in wanted["any_of"])
    if isinstance(value, str) and isinstance(wanted, str):
        return value.strip().casefold() == wanted.strip().casefold()
    if isinstance(value, list) and isinstance(wanted, list):
        return len(value) == len(wanted) and all(map(_equal, value, wanted))
    if isinstance(value, dict) and isinstance(wanted, dict):
        return value.keys() == wanted.keys() and all(_equal(value[name], wanted[name]) for name in wanted)
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)


def _json(arguments: Any) -> Any:
    """The arguments of a call; none where they are no JSON, which keeps no schema of an object."""
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except json.JSONDecodeError:
        return None
