"""What becomes of transformers' causal language models: planned, quantized, inspected, read back, and some of them served.

    .venv/bin/python benchmarks/architectures.py FOLDER [--types llama gpt_oss] [--methods rtn gptq] [--served qwen3_next]

makes a tiny random checkpoint of each type in FOLDER (two layers or one of each kind, as transformers itself saves it), asks
transformers for its structure, and per method plans, quantizes and inspects. What was quantized is unpacked and put together
again as the source lies; compared are its logits and the source's, both through transformers in float32. Random weights of this
size lose more than a model does: a cosine far below its neighbours' is the finding. vLLM's CPU build serves those of --served.
What is in FOLDER already is not made again: to try a changed method, delete FOLDER/made/TYPE/METHOD. Needs the environments
`quant` and `vllm_cpu`; writes results/architectures.md.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from architectures_page import page
from tiny_types import CALIBRATION, PROMPTS, SERVED, SERVING, TYPES, VOCABULARY, small

from qforge.config.job import Job, Rule
from qforge.envs.request import Refused, Request
from qforge.json_files import read_json, write_json
from qforge.models import checkpoint, modules, structure

SILENT = (
    "correct_output_scale",
)  # begins as zeros, so that a part of the blocks would see nothing but zeros (Gemma 3n)
LARGEST = 60e6  # parameters: a type whose configuration these numbers do not shrink is left out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--types", nargs="+", default=TYPES)
    parser.add_argument("--methods", nargs="+", default=["rtn", "nvfp4_llmc", "gptq"])
    parser.add_argument("--served", nargs="*", default=SERVED, help="types that vLLM's CPU build is asked to serve")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "architectures.md")
    parser.add_argument("--step", choices=[step.__name__ for step in STEPS], help="what this script runs in `quant`")
    options = parser.parse_args()
    if options.step:
        return next(step for step in STEPS if step.__name__ == options.step)(options)
    in_quant(make, options)
    for kind in options.types:
        for method in options.methods if (options.folder / kind / "config.json").exists() else ():
            plan_one(options.folder, kind, method)
    for kind in options.served:
        plan_one(options.folder, kind, SERVING)
    in_quant(quantize, options)
    for state in states(options):
        inspect_one(state)
    in_quant(compare, options)
    serve(options)
    text = page(options.folder, options.types, options.methods, options.served)
    options.out.write_text(text)
    print(text)


def in_quant(step: Any, options: argparse.Namespace) -> None:
    """Run a step in the quantizer's environment, one process for all types."""
    lists = ["--types", *options.types, "--methods", *options.methods, "--served", *options.served]
    command = [ROOT / ".venvs/quant/bin/python", __file__, options.folder, *lists, "--step", step.__name__]
    subprocess.run(list(map(str, command)), check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def states(options: argparse.Namespace) -> list[Path]:
    """The folder of each type and method, where what has happened so far is written."""
    pairs = [(kind, method) for kind in options.types for method in options.methods]
    pairs += [(kind, SERVING) for kind in options.served]
    return [state for pair in pairs if (state := options.folder / "made" / Path(*pair)).is_dir()]


def note(state: Path, **facts: Any) -> None:
    known = read_json(state / "state.json") if (state / "state.json").exists() else {}
    write_json(state / "state.json", {**known, **facts})


# -- steps


def make(options: argparse.Namespace) -> None:
    """A tiny checkpoint of each type, and its structure."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    from qforge.stages.structure import structure as ask

    transformers.logging.set_verbosity_error()
    random = Random(0)
    tokens = [
        [random.randrange(3, VOCABULARY) for _ in range(CALIBRATION["length"])] for _ in range(CALIBRATION["sequences"])
    ]
    (options.folder / "calibration").mkdir(parents=True, exist_ok=True)
    write_json(options.folder / "calibration" / "sequences.json", tokens)
    for kind in options.types:
        folder = options.folder / kind
        if folder.exists():
            continue
        folder.mkdir(parents=True)
        try:
            config = small(kind)
            with torch.device("meta"):
                size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
            if size > LARGEST:
                raise ValueError(f"{size / 1e6:.0f} M parameters")
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
            for name, parameter in model.named_parameters():
                if name.endswith(SILENT):
                    torch.nn.init.ones_(parameter)
            model.save_pretrained(folder)
            tokenizer().save_pretrained(folder)
            names = {name: list(t.shape) for name, t in checkpoint.headers(folder).items()}
            write_json(options.folder / f"{kind}.names.json", names)
            inputs = {"model": str(folder), "names": str(options.folder / f"{kind}.names.json")}
            write_json(options.folder / f"{kind}.structure.json", ask(Request(Job(), "", inputs)))
        except Exception as error:  # what a type's own configuration says is part of the table
            (options.folder / f"{kind}.skipped").write_text(
                f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
            )
        gc.collect()


def tokenizer() -> Any:
    """One word for each number of the vocabulary: libraries and engines want to load one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({str(number): number for number in range(VOCABULARY)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0", bos_token="1", eos_token="2")


def plan_one(folder: Path, kind: str, method: str) -> None:
    """The plan and the request of a type and method."""
    from qforge.config.compose import compose
    from qforge.config.places import CONF
    from qforge.models import metadata
    from qforge.plan import plan

    source, state = folder / kind, folder / "made" / kind / method
    state.mkdir(parents=True, exist_ok=True)
    group = ["group_size=32"] if method in ("rtn", "gptq", SERVING) else []
    calib = ["calib.expert_floor=0", *(f"calib.{key}={value}" for key, value in CALIBRATION.items())]
    named, places = (
        (f"method={method}", ["hw=h100", "runtime=vllm"]) if method != SERVING else ("method=rtn", ["hw=cpu"])
    )
    job = compose(CONF, "model=local", f"model.name={kind}", f"model.path={source}", "exempt=none", named, *places,
                  "stages=[quantize,inspect]", *group, *calib)  # fmt: skip
    if method == SERVING and any(".experts." in name for name in checkpoint.headers(source)):
        job = replace(job, exempt={"experts": Rule(["role:expert"], "INT4 experts on a CPU need AMX")})
    try:
        if metadata.unclear(job.model, source):
            job = replace(job, model=replace(job.model, structure=str(folder / f"{kind}.structure.json")))
        planned = plan.make(job, source)
    except Exception as error:
        return write_json(state / "state.json", {"plan": verdict(error)})
    note(state, plan="works", structure=bool(job.model.structure), notes=planned.notes,
         quantized=len(planned.quantized), of=sum(m.kind != "embedding" for m in planned.modules))  # fmt: skip
    inputs = {"source": str(source), **({"calibration": str(folder / "calibration")} if job.method.calibrated else {})}
    kept = [] if job.method.streams else planned.kept
    Request(job, str(state), inputs, planned.ignore, kept).write(state / "request.json")


def verdict(error: Exception) -> str:
    """What the planner or a method says: a refusal is a ValueError."""
    word = "refused" if isinstance(error, ValueError) else f"fails: {type(error).__name__}"
    return f"{word}: {first_line(error)}"


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:300]


def quantize(options: argparse.Namespace) -> None:
    from qforge.stages import quantize

    for state in states(options):
        known = read_json(state / "state.json")
        if known["plan"] == "works" and "quantize" not in known:
            try:
                quantize.quantize(request_of(state))
                note(state, quantize="works")
            except Refused as refusal:
                note(state, quantize=verdict(refusal))
            except Exception as error:  # a library's
                traceback.print_exc()
                note(state, quantize=f"fails: {type(error).__name__}: {first_line(error)}")
            gc.collect()


def inspect_one(state: Path) -> None:
    from qforge.inspect.inspect import inspect
    from qforge.plan import plan

    if read_json(state / "state.json").get("quantize") != "works":
        return
    request = request_of(state)
    source = Path(request.inputs["source"])
    found = inspect(state / "artifact", plan.make(request.job, source), source)
    note(state, inspect="works" if not found.faults else f"fails: {found.faults[0][:150]}")


def compare(options: argparse.Namespace) -> None:
    """The logits of what was quantized, unpacked and laid out as the source, beside the source's."""
    import torch
    import transformers

    from qforge.methods.rewriting import unpack

    transformers.logging.set_verbosity_error()
    for state in states(options):
        known = read_json(state / "state.json")
        if known.get("inspect") != "works" or "cosine" in known:
            continue
        source = Path(request_of(state).inputs["source"])
        try:
            unpack(state / "artifact", state / "plain")
            restack(request_of(state), source, state / "plain")
            tokens = torch.tensor(PROMPTS)
            ours, own = (_logits(folder, tokens) for folder in (state / "plain", source))
            note(state, cosine=float(torch.cosine_similarity(ours, own, -1).mean()),
                 logp=_logp(ours, tokens), source_logp=_logp(own, tokens))  # fmt: skip
        except Exception as error:
            note(state, cosine=f"{type(error).__name__}: {str(error).splitlines()[0][:100]}")
        gc.collect()


def _logits(folder: Path, tokens: Any) -> Any:
    import torch
    import transformers

    named = getattr(transformers, read_json(folder / "config.json")["architectures"][0])
    model = named.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model.eval()(tokens, use_cache=False).logits.float()


def _logp(logits: Any, tokens: Any) -> list[float]:
    """Of every token but the first of each prompt, as benchmarks/served.py writes them."""
    scored = logits[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None])
    return list(scored.flatten().tolist())


def serve(options: argparse.Namespace) -> None:
    """What vLLM's CPU build says of the bf16 and the quantized checkpoint of each type, into served.json of either."""
    write_json(options.folder / "prompts.json", PROMPTS)
    made = [options.folder / "made" / kind / SERVING / "artifact" for kind in options.served]
    wanted = [
        folder for artifact in made if artifact.exists() for folder in (options.folder / artifact.parts[-3], artifact)
    ]
    todo = [folder for folder in wanted if not folder.with_name(f"{folder.name}.served.json").exists()]
    command = [
        ROOT / ".venvs/vllm_cpu/bin/python",
        ROOT / "benchmarks/served.py",
        options.folder / "prompts.json",
        *todo,
    ]
    subprocess.run(list(map(str, command)), check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def restack(request: Request, source: Path, plain: Path) -> None:
    """The matrices that lie otherwise in the source, put together again."""
    import torch
    from safetensors.torch import load_file, save_file

    (file,) = plain.glob("*.safetensors")
    tensors, stored = load_file(file), checkpoint.headers(source)
    built = structure.read(Path(request.job.model.structure)) if request.job.model.structure else None
    for module in modules.from_tensors(stored, read_json(source / "config.json"), built):
        if module.stack > 1 and module.linear:
            for suffix, name in (("weight", module.tensor), ("bias", f"{module.tensor}_bias")):
                parts = [tensors.pop(f"{part}.{suffix}", None) for part, _, _ in module.matrices]
                if parts[0] is not None:
                    tensors[name] = _stacked(parts, module)
        elif module.transposed and module.linear:
            tensors[module.tensor] = tensors[module.tensor].T.contiguous()
    if wrong := [name for name, t in tensors.items() if t.shape != torch.Size(stored[name].shape)]:
        raise ValueError(f"{wrong[0]} has another shape than the source's")
    save_file(tensors, file, {"format": "pt"})


def _stacked(parts: list[Any], module: modules.Module) -> Any:
    import torch

    count = len(module.leaves)
    experts = [torch.stack(parts[i : i + count], 1 if module.alternate else 0) for i in range(0, len(parts), count)]
    whole = torch.stack([expert.flatten(0, 1) for expert in experts])
    return (whole.transpose(1, 2) if module.transposed and whole.ndim == 3 else whole).contiguous()


def request_of(state: Path) -> Request:
    from pydantic import TypeAdapter

    return TypeAdapter(Request).validate_json((state / "request.json").read_text())


STEPS = (make, quantize, compare)

if __name__ == "__main__":
    main()
