"""What each part of the model loses by rounding: KL(bf16 || model) with it alone quantized, and with all but it.

The weights of a model in memory are replaced by what the method would store of them (methods/rounding.py), and the
next-token distributions over the whole vocabulary are compared with bf16's on the same windows. Each result is written to
a journal beside the result's folder at once, so that a killed job goes on after its last one.

The weights are bf16's, and the model computes in float32: in bf16 any change of a matrix moves it about as much as 8 bits do
(SmolLM2-135M turned, 254 tokens: by 0.0014 nats in each of 120 parts in INT8, 0.17 in all, where the whole model in INT8 has
0.006), and parts in 4 bits begin at 0.001 there.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.nn.functional import kl_div
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from qforge import json_files
from qforge.config.job import Job
from qforge.config.places import given_path
from qforge.disk import settle
from qforge.envs.request import Failed, Refused, Request, stage
from qforge.evaluation.perplexity import windows
from qforge.evaluation.tokenizer import load
from qforge.methods.packing import sets
from qforge.methods.rounding import rounding
from qforge.models import checkpoint, structure
from qforge.models.modules import Module, from_tensors
from qforge.models.parts import Part, parts

Weights = dict[str, torch.Tensor]  # by matrix
ALONE, ALL, ALL_BUT = "alone", "all", "all_but"


def sensitivity(request: Request) -> dict[str, Any]:
    """Returns KL in nats per token, window by window: `all`, and of each part `alone` (only it is quantized) and `all_but`."""
    started = time.monotonic()
    source = Path(request.inputs["source"])
    model = request.job.model
    built = structure.read(Path(model.structure)) if model.structure else None
    tree = from_tensors(checkpoint.headers(source), json_files.read_json(source / "config.json"), built)
    exempt = set(request.exempt)
    quantized = parts([m for m in tree if m.linear and m.name not in exempt], request.job.sensitivity.unit)
    subject = Subject(request.job, source, [m for part in quantized for m in part.modules])
    journal = Journal(Path(request.out).with_suffix(".journal"))
    with tqdm(total=2 * len(quantized) + 1, desc="sensitivity") as bar:
        for _ in measure(subject, quantized, journal):
            bar.update()
    return {
        "tokens": subject.tokens,
        "all": journal[ALL, ""],
        "parts": {part.name: {way: journal[way, part.name] for way in (ALONE, ALL_BUT)} for part in quantized},
        "seconds": time.monotonic() - started,
        "device": str(subject.model.device),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
    }


def measure(subject: Subject, quantized: list[Part], journal: Journal) -> Iterator[None]:
    """Fill the journal; one step per result, known ones included."""
    yield from measure_alone(subject, quantized, journal)
    for part in quantized:
        if (ALL_BUT, part.name) not in journal:
            with subject.holding(subject.stored(part.modules)):
                journal.add(ALL_BUT, part.name, subject.divergence(f"with everything but {part.name} quantized"))
        yield


def measure_alone(subject: Subject, quantized: list[Part], journal: Journal) -> Iterator[None]:
    """The same of each part alone, and of everything, which stays quantized."""
    for part in quantized:
        if (ALONE, part.name) not in journal:
            with subject.holding(subject.rounded(part.modules)):
                journal.add(ALONE, part.name, subject.divergence(f"with {part.name} alone quantized"))
        yield
    for part in quantized:
        subject.put(subject.rounded(part.modules))
    if (ALL, "") not in journal:
        journal.add(ALL, "", subject.divergence("with everything quantized"))
    yield


class Journal:
    """Results as they come, one line each. A line that a killed job did not finish is none."""

    def __init__(self, file: Path) -> None:
        self.file = file
        whole = file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []
        self._known: dict[tuple[str, str], list[float]] = {(way, name): kl for way, name, kl in map(json.loads, whole)}
        json_files.write_text(file, "".join(f"{line}\n" for line in whole))

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._known

    def __getitem__(self, key: tuple[str, str]) -> list[float]:
        return self._known[key]

    def add(self, way: str, name: str, kl: list[float]) -> None:
        self._known[way, name] = kl
        with self.file.open("a") as stream:
            stream.write(json.dumps([way, name, kl]) + "\n")
        settle(self.file)


class Subject:
    """The model in memory, whose weights are replaced and put back; and what bf16 says of the windows."""

    def __init__(self, job: Job, source: Path, matrices: list[Module]) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        code = job.model.trust_remote_code
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, trust_remote_code=code)
        self.model = model.eval().to(device, torch.float32)
        self.tensors = checkpoint.headers(source)
        parameters = dict(self.model.named_parameters())
        self.weights = {m.name: _weight(parameters, m.name) for m in matrices}
        for name, weight in self.stored(matrices).items():
            if not torch.equal(weight, self.weights[name]):
                raise _elsewhere(name)
        self.round = rounding(job.method, job.group_size)
        self.read(_windows(job, load(str(source), job)))

    def read(self, windows: list[list[int]]) -> None:
        """The windows of token ids to compare on, and what the model says of them now, as bf16."""
        self.windows, self.tokens = windows, sum(len(window) - 1 for window in windows)
        self.bf16 = [self._logits(window) for window in windows]

    def _logits(self, window: list[int]) -> torch.Tensor:
        """[tokens, vocabulary], of every token of the window but the last."""
        with torch.inference_mode():
            logits: torch.Tensor = self.model(torch.tensor([window], device=self.model.device)).logits[0, :-1]
        return logits

    def divergence(self, what: str) -> list[float]:
        """KL(bf16 || model) in nats, the mean over the tokens of each window. Raises Failed where one is not finite."""
        divergences = []
        for window, bf16 in zip(self.windows, self.bf16, strict=True):
            q, p = (logits.float().log_softmax(-1) for logits in (self._logits(window), bf16))
            divergences.append(float(kl_div(q, p, reduction="batchmean", log_target=True)))
            if not math.isfinite(divergences[-1]):
                side = what if bool(bf16.isfinite().all()) else "in bf16, unquantized,"
                raise Failed(
                    f"the model is garbage {side} on window {len(divergences)}: its log probabilities are not finite"
                )
        return divergences

    def rounded(self, matrices: list[Module]) -> Weights:
        """What the method would store of these matrices, from what they hold now."""
        weights: Weights = {}
        for members in sets(matrices):
            names = [m.name for m in members]
            together = self.round(torch.cat([self.weights[name].detach().bfloat16() for name in names])).float()
            weights |= zip(names, together.split([m.out_features for m in members]), strict=True)
        return weights

    def stored(self, matrices: list[Module]) -> Weights:
        """What the checkpoint holds of these matrices, in bf16."""
        weights: Weights = {}
        for matrix in matrices:
            with safe_open(self.tensors[matrix.tensor].file, "pt") as file:
                weights[matrix.name] = file.get_tensor(matrix.tensor).bfloat16().to(self.model.device, torch.float32)
        return weights

    def put(self, values: Weights) -> None:
        """Replace the weights of these matrices."""
        with torch.no_grad():
            for name, value in values.items():
                self.weights[name].copy_(value)

    @contextmanager
    def holding(self, values: Weights) -> Iterator[None]:
        """With the weights replaced by `values`."""
        before = {name: self.weights[name].detach().clone() for name in values}
        self.put(values)
        yield
        self.put(before)


def _weight(parameters: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """The matrix in memory. transformers 5 lays a layer's experts on one another: gate_up_proj [experts, 2 * out, in]."""
    if f"{name}.weight" in parameters:
        return parameters[f"{name}.weight"]
    experts, _, leaf = name.rpartition(".")
    layer, _, number = experts.rpartition(".")
    stack = parameters.get(f"{layer}.{'down_proj' if leaf == 'down_proj' else 'gate_up_proj'}")
    if stack is None or not number.isdigit() or leaf not in ("gate_proj", "up_proj", "down_proj"):
        raise _elsewhere(name)
    expert = stack[int(number)]
    return expert if leaf == "down_proj" else expert.chunk(2)[leaf == "up_proj"]


def _elsewhere(name: str) -> Refused:
    return Refused(
        f"model: transformers does not hold {name} as the checkpoint does, so its weights cannot be replaced one by one; "
        "sensitivity cannot be measured for this architecture, use exempt=boundary"
    )


def _windows(job: Job, tokenizer: Any) -> list[list[int]]:
    """Of the last quarter of the text: what is chosen here is judged by windows from its start."""
    settings = job.sensitivity
    text = given_path(job.eval.texts[settings.text].path).read_text()
    tail = text[text.find("\n", 3 * len(text) // 4) + 1 :]
    try:
        return windows(tail, tokenizer, [settings.length], settings.windows)
    except Refused:
        raise Refused(
            f"sensitivity.windows={settings.windows} sensitivity.length={settings.length}: the last quarter of {settings.text} "
            "is shorter; use fewer or shorter windows, or another sensitivity.text"
        ) from None


if __name__ == "__main__":
    stage(sensitivity)
