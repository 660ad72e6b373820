"""What choices of formats are worth at equal bytes: by measured losses, by ModelOpt's AutoQuantize and AutoRound's AutoScheme.

    OMP_WAIT_POLICY=PASSIVE .venvs/quant/bin/python benchmarks/mixed.py RUN --bits 9 9.5 10 [--store .store] [--windows 6]

RUN is the folder of a finished run of method=budget whose candidates are bf16, w8a8 and INT4 (rtn:GROUP); --bits are per weight
of the whole checkpoint. Both libraries score on the windows that RUN's losses were measured on and choose for the bits that the
choice of least measured loss takes. AutoQuantize is told what the formats store with their scales; AutoScheme counts by a rule
of its own, so its choices come to other bytes than asked for. Every choice, and one format alone with and without the first and
the last block in bf16, therefore stands beside the choice of least measured loss for its own bytes. KL to bf16, weights rounded
and computed in float32, is measured on windows of every text of evaluation that no choice has seen: from its start. Writes
RUN/choices.json, which results/mixed/ keeps.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import modelopt.torch.quantization as mtq
import torch
from auto_round import AutoRound, AutoScheme
from auto_round.schemes import QuantizationScheme
from pydantic import TypeAdapter
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from qforge.config.places import given_path
from qforge.envs.request import Request
from qforge.evaluation.perplexity import windows
from qforge.json_files import read_json, to_json
from qforge.methods.rounding import rounding
from qforge.models.checkpoint import headers
from qforge.models.modules import from_tensors
from qforge.models.parts import parts
from qforge.stages.allocation import chosen
from qforge.stages.sensitivity import Subject

BF16, INT8 = "bf16", "w8a8"
LENGTH = 256  # of the windows that choices are compared on
FUSED = [["q_proj", "k_proj", "v_proj"], ["gate_proj", "up_proj"]]  # what vLLM computes as one
Choice = Sequence[str]  # the format of each part


class Comparison:
    """A run's parts with what each takes and loses in each format, and the model to try choices on."""

    def __init__(self, run: Path, store: Path) -> None:
        self.budget = read_json(run / "budget.json")
        self.sizes: list[dict[str, int]] = [part["bytes"] for part in self.budget["parts"]]
        self.losses: list[dict[str, float]] = [part["loss"] for part in self.budget["parts"]]
        whole = self.budget["chosen"]
        self.rest = whole["bytes"] - self.bytes([part["format"] for part in self.budget["parts"]])
        self.parameters = 8 * whole["bytes"] / whole["bits"]  # of the whole checkpoint
        (self.int4,) = set(self.budget["candidates"]) - {BF16, INT8}
        self.group = int(self.int4.partition(":")[2])
        requests = {name: _request(store, name) for name in (INT8, self.int4)}
        self.job, self.source = requests[INT8].job, Path(requests[INT8].inputs["source"])
        self.rounds = {name: rounding(each.job.method, each.job.group_size) for name, each in requests.items()}
        tree = from_tensors(headers(self.source), read_json(self.source / "config.json"))
        exempt = set(requests[INT8].exempt)
        self.parts = parts([m for m in tree if m.linear and m.name not in exempt], self.job.sensitivity.unit)
        assert [part.name for part in self.parts] == [part["part"] for part in self.budget["parts"]]
        self.matrices = [m for part in self.parts for m in part.modules]
        self.weights = sum(m.parameters for m in self.matrices)
        self.tokenizer = AutoTokenizer.from_pretrained(self.source)
        self.subject = Subject(self.job, self.source, self.matrices)
        self.seen = self.subject.windows

    def bytes(self, choice: Choice) -> int:
        """Of the parts alone."""
        return sum(sizes[name] for sizes, name in zip(self.sizes, choice, strict=True))

    def bits(self, choice: Choice) -> float:
        """Per weight of the whole checkpoint."""
        return float(8 * (self.rest + self.bytes(choice)) / self.parameters)

    def solved(self, nbytes: float) -> Choice:
        """The choice of least added loss whose parts take at most so many bytes."""
        problem = [{name: [sizes[name], losses[name]] for name in sizes}
                   for sizes, losses in zip(self.sizes, self.losses, strict=True)]  # fmt: skip
        return chosen(problem, nbytes)

    def by_matrix(self, formats: Mapping[str, str]) -> Choice:
        """The choice that formats of matrices are, of which fused ones have the same. bf16 where none is said."""
        choice = []
        for part in self.parts:
            (name,) = {formats.get(m.name, BF16) for m in part.modules}
            choice.append(name)
        return choice

    def read(self, count: int) -> None:
        """Compare on so many windows from the start of every text of evaluation."""
        texts = [given_path(each.path).read_text() for each in self.job.eval.texts.values()]
        self.subject.read([window for text in texts for window in windows(text, self.tokenizer, [LENGTH], count)])

    def kl(self, choice: Choice) -> list[float]:
        """To bf16, in nats per token of each window."""
        subject = self.subject
        with subject.holding(subject.stored(self.matrices)):
            for name, function in self.rounds.items():
                named = [part for part, wanted in zip(self.parts, choice, strict=True) if wanted == name]
                subject.round = function
                subject.put(subject.rounded([m for part in named for m in part.modules]))
            return subject.divergence("with a choice of formats")


def _request(store: Path, candidate: str) -> Request:
    """Of the newest measurement of a format's losses."""
    name, _, group = candidate.partition(":")
    files = sorted(store.glob("losses/*/request.json"), key=lambda file: file.stat().st_mtime)
    requests = [TypeAdapter(Request).validate_json(file.read_text()) for file in files]
    return [each for each in requests
            if each.job.method.name == name and (not group or each.job.group_size == int(group))][-1]  # fmt: skip


def autoquantize(of: Comparison, asked: list[Choice]) -> list[Choice]:
    """ModelOpt's choices of the bytes of those asked for: gradient scores once, an integer program each."""
    int4, int8 = deepcopy(mtq.INT4_BLOCKWISE_WEIGHT_ONLY_CFG), deepcopy(mtq.INT8_WEIGHT_ONLY_CFG)
    for entry in int4["quant_cfg"]:
        if "block_sizes" in (entry.get("cfg") or {}):
            entry["cfg"]["block_sizes"][-1] = of.group
    for config, name in ((int4, of.int4), (int8, INT8)):
        config["effective_bits"] = 8 * of.bytes([name] * len(of.parts)) / of.weights
    model = AutoModelForCausalLM.from_pretrained(of.source, dtype=torch.float32)
    head = model.get_output_embeddings().weight.numel()  # which it counts, though it may not quantize it
    wanted = [(8 * of.bytes(choice) + 16 * head) / (of.weights + head) for choice in asked]
    batches = [torch.tensor([window]) for window in of.seen]
    _, state = mtq.auto_quantize(
        model, constraints={"effective_bits": wanted[0]}, quantization_formats=[int4, int8],
        data_loader=batches, forward_step=lambda model, batch: model(batch, labels=batch),
        loss_func=lambda output, batch: output.loss, disabled_layers=["*lm_head*"],
        num_calib_steps=len(batches), num_score_steps=len(batches),
    )  # fmt: skip
    return [_recipe(of, mtq.get_auto_quantize_config(state, {"effective_bits": bits})) for bits in wanted]


def _recipe(of: Comparison, config: dict[str, Any]) -> Choice:
    """The choice that one of ModelOpt's configs of quantizers is."""
    names, suffix = {4: of.int4, 8: INT8}, ".weight_quantizer"
    matrices = {m.name for m in of.matrices}
    entries = [(entry["quantizer_name"].removesuffix(suffix), entry) for entry in config["quant_cfg"]]
    return of.by_matrix(
        {name: names[entry["cfg"]["num_bits"]] for name, entry in entries if name in matrices and entry["enable"]}
    )


def autoscheme(of: Comparison, asked: list[Choice]) -> list[Choice]:
    """AutoRound's choices: first-order scores once, a dynamic program each."""
    options = [
        QuantizationScheme(bits=4, group_size=of.group, sym=True),
        QuantizationScheme(bits=8, group_size=-1, sym=True), "BF16",
    ]  # fmt: skip
    names = {4: of.int4, 8: INT8, 16: BF16}
    choices = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AR_AUTO_SCHEME_CACHE"] = folder  # its scores, for the next size
        file = Path(folder, "seen.json")
        file.write_text(json.dumps([{"text": of.tokenizer.decode(window)} for window in of.seen]))
        text = {
            "dataset": str(file), "nsamples": len(of.seen), "device_map": "cpu",
            "seqlen": min(map(len, of.seen)) - 8,  # the text of a window can come back as fewer tokens, which it drops
        }  # fmt: skip
        for choice in asked:
            scheme = AutoScheme(
                avg_bits=_counted(of, choice), options=options, shared_layers=FUSED, batch_size=1,
                low_gpu_mem_usage=False, **text,  # which would go block by block
            )  # fmt: skip
            model = AutoModelForCausalLM.from_pretrained(of.source, dtype=torch.bfloat16)
            library = AutoRound(model, of.tokenizer, scheme=scheme, iters=0, **text)
            library.post_init()  # chooses, and quantizes nothing
            made = library.layer_config
            choices.append(of.by_matrix({m.name: names[int(made[m.name]["bits"])] for m in of.matrices}))
    return choices


def _counted(of: Comparison, choice: Choice) -> float:
    """Bits per weight as AutoScheme counts them: a scale of 16 bits and a zero point, symmetric or not, for every group."""
    widths, total = {of.int4: 4, INT8: 8}, 0.0
    for part, name in zip(of.parts, choice, strict=True):
        for m in part.modules:
            bits, group = widths.get(name), of.group if name == of.int4 else m.in_features
            total += 16 * m.parameters if bits is None else m.parameters * (bits + (16 + bits) / group)
    return total / of.weights


def _boundary(of: Comparison, name: str) -> Choice:
    """One format, and the first and the last block in bf16."""
    last = max(part.block for part in of.parts if isinstance(part.block, int))
    return [BF16 if part.block in (0, last) else name for part in of.parts]


def _chosen(of: Comparison, bits: list[float]) -> tuple[dict[str, Choice], dict[str, float]]:
    """The choices to compare, and the seconds that either library took for all of its own."""
    asked = [of.solved(each * of.parameters / 8 - of.rest) for each in bits]
    choices: dict[str, Choice] = {}
    for name in (of.int4, INT8):
        choices |= {name: [name] * len(of.parts), f"{name}, boundary in bf16": _boundary(of, name)}
    ways: dict[str, Callable[[Comparison, list[Choice]], list[Choice]]]
    ways, seconds = {"AutoQuantize": autoquantize, "AutoScheme": autoscheme}, {}
    for way, choose in ways.items():
        started = time.monotonic()
        made = choose(of, asked)
        seconds[way] = time.monotonic() - started
        choices |= {f"{way}, {each:g} asked": choice for each, choice in zip(bits, made, strict=True)}
    return choices, seconds


def _described(of: Comparison, choice: Choice, kl: list[float]) -> dict[str, Any]:
    texts = list(of.job.eval.texts)
    count = len(kl) // len(texts)
    return {
        "bits": of.bits(choice), "parts": {name: choice.count(name) for name in of.budget["candidates"]},
        "kl": {text: fmean(kl[n * count :][:count]) for n, text in enumerate(texts)},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--bits", type=float, nargs="+", required=True)
    parser.add_argument("--store", type=Path, default=ROOT / ".store")
    parser.add_argument("--windows", type=int, default=6)
    options = parser.parse_args()
    of = Comparison(options.run, options.store)
    choices, seconds = _chosen(of, options.bits)
    own = {name: of.solved(of.bytes(choice)) for name, choice in choices.items()}
    of.read(options.windows)
    different = {tuple(choice) for choice in [*choices.values(), *own.values()]}
    found = {choice: of.kl(choice) for choice in tqdm(different, desc="KL")}
    rows = []
    for name, choice in choices.items():
        theirs, ours = found[tuple(choice)], found[tuple(own[name])]
        rows.append({
            "formats": name, **_described(of, choice, theirs), "least": _described(of, own[name], ours),
            "least_is_lower_on": sum(our < their for their, our in zip(theirs, ours, strict=True)),
        })  # fmt: skip
    kept = {key: of.budget[key] for key in ("unit", "text", "tokens", "candidates")}
    ran = read_json(options.run / "row.json")
    kept |= {key: ran[key] for key in ("model", "date", "machine", "qforge")} | {"hw": ran["conditions"]["hw"]}
    kept |= {"windows": options.windows, "length": LENGTH, "seconds": seconds}
    kept["versions"] = {name: importlib.metadata.version(name) for name in ("nvidia-modelopt", "auto-round", "torch")}
    (options.run / "choices.json").write_text(to_json({**kept, "choices": rows}))
    print(to_json(rows))


if __name__ == "__main__":
    main()
