"""Two sets of results may be compared where they were measured under the same conditions, and nowhere else."""

from __future__ import annotations

from typing import Any

from qforge.machine.identity import deciding


def refuse_different(measured: dict[str, Any], baseline: dict[str, Any]) -> None:
    """Raises ValueError that names every condition in which the two differ: such a comparison is not adjusted."""
    own, reference = _conditions(measured), _conditions(baseline)
    differing = []
    for stage in own.keys() & reference.keys():
        mine, other = own[stage], reference[stage]
        names = [name for name in (*mine, *(n for n in other if n not in mine)) if mine.get(name) != other.get(name)]
        differing += [f"{name} ({_short(mine.get(name))} against {_short(other.get(name))})" for name in names]
    if differing:
        raise ValueError(
            "judge: the model and its baseline were not measured under the same conditions: "
            f"{', '.join(sorted(set(differing)))}; they cannot be compared; measure both in one run"
        )


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:12]}…"


def _conditions(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What decides a result beside the checkpoint, by stage and name, as the results themselves say."""
    conditions = {}
    for stage, of in (("serve", _serve), ("evaluate", _evaluate), ("bench", _bench)):
        result = results[stage]
        if "not_measured" not in result:
            machine = {f"machine.{name}": value for name, value in deciding(result["made"]["machine"]).items()}
            conditions[stage] = {**machine, **of(result)}
    return conditions


def software(results: dict[str, Any]) -> dict[str, Any]:
    """The versions of what served and scored, as the results themselves say; nothing of what was not measured."""
    serve, evaluate = (results.get(stage) or {} for stage in ("serve", "evaluate"))
    served = {"the version of vLLM": serve["version"]} if "version" in serve else {}
    return served | {f"the version of {name}": version for name, version in evaluate.get("versions", {}).items()}


def _serve(result: dict[str, Any]) -> dict[str, Any]:
    return software({"serve": result})


def _evaluate(result: dict[str, Any]) -> dict[str, Any]:
    long = result.get("long_context") or {}
    return {
        "the runtime": result["through"],
        "eval.context": result["context"],
        "eval.lengths": result.get("lengths"),
        **{f"eval.{name}": value for name, value in (result.get("asking") or {}).items()},
        **{f"the windows of {name}": text["windows_sha256"] for name, text in result["texts"].items()},
        **{f"the prompts of {name}": task["prompt_hashes"] for name, task in result["tasks"].items()},
        **{f"the judge of {name}": rated["judge"] for name, t in result["tasks"].items() if (rated := t.get("rated"))},
        **{f"the long text {name}": text["windows_sha256"] for name, text in long.get("perplexity", {}).items()},
        "the needles' prompts": (long.get("needles") or {}).get("prompts_sha256"),
        **software({"evaluate": result}),
    }


def _bench(result: dict[str, Any]) -> dict[str, Any]:
    settings = {f"bench.{name}": result[name] for name in ("input_len", "output_len", "tool")}
    settings |= {"the requests of bench.trace": (result.get("trace") or {}).get("sha256")}
    return {**settings, "bench.concurrency": sorted(map(int, result["runs"]))}
