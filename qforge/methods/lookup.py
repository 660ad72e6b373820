"""Whether the function that quantizes is there, as JSON on the last line: `python -m qforge.methods.lookup FUNCTION`.

Looked up in the source, without importing it: it may import torch and a library that is not here.
"""

import ast
import importlib.util
import json
import sys
from pathlib import Path


def fault(function: str) -> str | None:
    """What is wrong with `module:function`; none where this interpreter finds it."""
    key, (module, _, name) = f"method.function={function}", function.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        return f"{key}: is not an import path; use module:function"
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # of the package around it
        spec = None
    if spec is None or spec.origin is None:
        return f"{key}: there is no module {module} in this environment; check the name, and PYTHONPATH"
    source = Path(spec.origin)
    if source.suffix == ".py" and name not in _names(ast.parse(source.read_text())):
        return f"{key}: {module} has no function {name}; use a function that it has"
    return None


def _names(tree: ast.Module) -> set[str]:
    """The names that a module has by definition, assignment or import."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return names | {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


if __name__ == "__main__":
    refusal = fault(*json.loads(sys.argv[1]))
    print(json.dumps({"faults": [refusal] if refusal else []}))
