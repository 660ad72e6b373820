"""Bad files: seeded faults in artifacts of every layout that vLLM reads; which inspect finds, which a score, which neither.

    .venv/bin/python benchmarks/faults/files.py [--faults 500] [--seed 0] [--layouts int4,...] [--all FILE]
    .venv/bin/python benchmarks/faults/files.py --read FILE ...     the table of what --all has written

The model is tiny.py's, packed by packing.py. Inspect is what `artifact=... stages=[inspect]` does, with the source at hand;
what it does not find is looked at once more with every row unpacked, where it unpacks some (qforge/inspect/weights.py). The
score is the divergence from bf16 on 128 random tokens, by numpy: it finds a fault where that is more than twice the undamaged
artifact's, is no number, or where no loader could take the files. `verify` compares with the hashes that a run writes. Ends
with a traceback where inspect does, and with 1 where an undamaged artifact is refused.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import llama
import numpy as np
from damage import FAULTS, INDEX, TOKENIZER, Copy
from model import tiny_model
from packing import LAYOUTS, Array

from qforge.config.compose import compose
from qforge.config.job import Job
from qforge.config.places import CONF
from qforge.envs.process import StageError
from qforge.inspect import companions, weights
from qforge.inspect.inspect import inspect
from qforge.pipeline import artifact
from qforge.pipeline.run import Run
from qforge.plan import plan
from qforge.store import provenance

TWICE = 2.0  # a score that finds a fault is so many times the undamaged one's
TOKENS = 128
EVERY = 1 << 20  # rows: more than a matrix has
UNREAD = "gptq_asym"  # of which the plan refuses every artifact


@dataclass(frozen=True)
class Case:
    """A fault, and who finds it. `said`: inspect's first word of it."""

    fault: str
    layout: str
    said: str
    inspected: bool
    whole: bool  # inspect, had it unpacked every row
    scored: bool
    verified: bool
    score: float


class Campaign:
    """The source, an undamaged artifact of each layout, and their scores."""

    def __init__(self, top: Path, layouts: list[str]) -> None:
        self.top, self.source = top, top / "source"
        tiny_model(self.source)
        self.tokens = np.random.default_rng(0).integers(0, 512, TOKENS)
        tensors = llama.read(self.source)
        self.names = llama.matrices(tensors)
        self.config = json.loads((self.source / "config.json").read_text())
        every = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
        self.reference = llama.log_probabilities(self.config, every, self.tokens)
        self.jobs = {layout: self._job(layout) for layout in layouts}
        self.clean = {layout: self._made(layout, tensors) for layout in layouts}
        self.usual = {layout: self.score(folder, layout) for layout, folder in self.clean.items()}

    def _made(self, layout: str, tensors: llama.Tensors) -> Path:
        """The artifact of a layout, in two files."""
        folder, packed = self.top / layout, LAYOUTS[layout]
        folder.mkdir()
        files: dict[str, llama.Tensors] = {}
        for number, (name, tensor) in enumerate(sorted(tensors.items())):
            matrix = name.removesuffix(".weight")
            made = {name: tensor}
            if matrix in self.names:
                made = {
                    f"{matrix}.{suffix}": part
                    for suffix, part in packed.pack(tensor.astype(np.float32), packed.group).items()
                }
                made |= {f"{matrix}.{suffix}": _scalar(suffix, value) for suffix, value in packed.extra.items()}
            files.setdefault(f"model-0000{1 + number % 2}-of-00002.safetensors", {}).update(made)
        for file, part in files.items():
            llama.write(folder / file, part)
        places = {name: file for file, part in files.items() for name in part}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
        (folder / "config.json").write_text(json.dumps({**self.config, "quantization_config": packed.said}))
        for name in (TOKENIZER, "tokenizer_config.json", "generation_config.json"):
            shutil.copyfile(self.source / name, folder / name)
        return folder

    def score(self, folder: Path, layout: str) -> float:
        """KL to bf16, in nats per token; infinite where it cannot be loaded, or its tokens are others."""
        try:
            config = json.loads((folder / "config.json").read_text())
            if not self._announced(config, layout) or not self._same_tokens(folder):
                return math.inf
            every = llama.plain(llama.read(folder), layout, self.names)
            return llama.divergence(self.reference, llama.log_probabilities(config, every, self.tokens))
        except llama.Unloadable:
            return math.inf

    def _announced(self, config: dict[str, object], layout: str) -> bool:
        """Whether a loader would unpack it as it is packed, by what config.json says."""
        return config.get("quantization_config") == LAYOUTS[layout].said

    def _same_tokens(self, folder: Path) -> bool:
        file = folder / TOKENIZER
        return file.is_file() and json.loads(file.read_text()) == json.loads((self.source / TOKENIZER).read_text())

    def inspected(self, folder: Path, layout: str) -> list[str]:
        """What the pipeline says of this folder as artifact=; raises what is no answer."""
        run = Run(replace(self.jobs[layout], artifact=str(folder)), self.top / "run")
        try:
            artifact.given(run)
            run = artifact.as_given(run)
            planned = plan.make(run.job, self.source)
            return inspect(folder, planned, self.source).faults + list(companions.faults(folder, self.source))
        except (ValueError, StageError) as refusal:
            return [str(refusal)]

    def _job(self, layout: str) -> Job:
        model = ("model=local", "model.name=tiny", f"model.path={self.source}", f"method={LAYOUTS[layout].method}")
        return compose(
            CONF, *model, "exempt=none", "stages=[inspect]", f"store={self.top}/store", *LAYOUTS[layout].served
        )

    def case(self, layout: str, fault: str, draw: random.Random) -> Case:
        """A copy of the artifact, damaged and looked at."""
        folder = self.top / "damaged"
        shutil.copytree(self.clean[layout], folder)
        (folder / "qforge").mkdir()
        (folder / provenance.HASHES).write_text(json.dumps(provenance.file_hashes(folder)))
        FAULTS[fault](Copy(folder, layout, draw))
        said = self.inspected(folder, layout)
        with patch.object(weights, "ROWS", EVERY):
            whole = bool(said or self.inspected(folder, layout))
        score = self.score(folder, layout)
        scored = not score <= TWICE * self.usual[layout]
        verified = bool(provenance.verify(folder))
        shutil.rmtree(folder)
        return Case(fault, layout, said[0] if said else "", bool(said), whole, scored, verified, score)


def _scalar(suffix: str, value: float) -> Array:
    return np.array([value] if "global" in suffix else value, np.float32)


def cases(campaign: Campaign, count: int, seed: int) -> Iterator[Case]:
    """As many faults as asked for, each kind in each layout in turn."""
    draw = random.Random(seed)
    pairs = [(layout, fault) for fault in FAULTS for layout in campaign.clean]
    draw.shuffle(pairs)
    for number in range(count):
        yield campaign.case(*pairs[number % len(pairs)], random.Random(f"{seed} {number}"))


def table(found: list[Case]) -> str:
    """Markdown: by kind of fault, who finds it."""
    lines = ["| fault | tried | inspect | by every row | only a score | neither |", "|---|---|---|---|---|---|"]
    for fault in FAULTS:
        of = [case for case in found if case.fault == fault]
        lines.append(f"| {fault} | {_counts(of)} |")
    return "\n".join([*lines, f"| **all** | {_counts(found)} |"])


def _counts(of: list[Case]) -> str:
    inspected = sum(case.inspected for case in of)
    more = sum(case.whole and not case.inspected for case in of)
    scored = sum(case.scored and not case.whole for case in of)
    return f"{len(of)} | {inspected} | {more or ''} | {scored or ''} | {len(of) - inspected - more - scored or ''}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layouts", default=",".join(layout for layout in LAYOUTS if layout != UNREAD))
    parser.add_argument("--all", type=Path, help="every case as JSON lines")
    parser.add_argument("--read", type=Path, nargs="+", metavar="FILE")
    options = parser.parse_args()
    if options.read:
        tell([Case(**json.loads(line)) for file in options.read for line in file.read_text().splitlines()])
        return 0
    with tempfile.TemporaryDirectory() as top:
        campaign = Campaign(Path(top), options.layouts.split(","))
        refused = {
            layout: said for layout, folder in campaign.clean.items() if (said := campaign.inspected(folder, layout))
        }
        for layout, said in refused.items():
            print(f"{layout}, undamaged: {said}")
        found = []
        for case in cases(campaign, options.faults, options.seed):
            found.append(case)
            if options.all:
                with options.all.open("a") as stream:
                    stream.write(json.dumps(vars(case)) + "\n")
    tell(found)
    return 1 if refused else 0


def tell(found: list[Case]) -> None:
    """The table, and what inspect does not find."""
    print(table(found))
    print(f"\n{sum(case.verified for case in found)} of {len(found)} change what verify=PATH compares")
    missed = Counter((c.fault, c.layout) for c in found if not c.inspected and c.scored)
    print("\n".join(f"only a score: {fault}, {layout}: {count}" for (fault, layout), count in sorted(missed.items())))


if __name__ == "__main__":
    sys.exit(main())
