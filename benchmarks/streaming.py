"""Time and memory of the streamed methods against the size of the model, on random weights, as one Markdown table.

    .venv/bin/python benchmarks/streaming.py FOLDER [--gb 2 4 8] [--methods rtn fp8 nvfp4_llmc] [--inspect]

makes models of about these sizes in FOLDER (a MoE of many small matrices, in files of 5 GB), times the reading and
writing of the bytes alone, then quantizes with each method in a fresh process. Needs room for 1.4 times the largest
model. Page caches are dropped before each run. One JSON per row and the table go to outputs/streaming/, or to --out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qforge import json_files
from qforge.envs.request import Request
from qforge.json_files import to_json
from qforge.models import architectures, checkpoint, random_weights
from qforge.models.shards import Shard, fill
from qforge.plan import plan

SHAPE = ROOT / "data" / "architectures" / "qwen3_30b_a3b.json"
CHUNK = 64 << 20
THREADS = min(8, len(os.sched_getaffinity(0)))
COLUMNS = (
    "model_gb", "matrices", "method", "bytes_s", "bytes_in_turn_s", "stream_s", "ratio", "ratio_in_turn", "gb_per_s",
    "peak_rss_gib", "peak_gpu_gib",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gb", type=float, nargs="+", default=[2, 4, 8])
    parser.add_argument("--methods", nargs="+", default=["rtn", "fp8", "nvfp4_llmc"])
    parser.add_argument("--shape", type=Path, default=SHAPE, help="config.json of the model; its depth is adapted")
    parser.add_argument("--python", default=str(ROOT / ".venvs/quant/bin/python"), help="of the stage")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "streaming")
    parser.add_argument("--inspect", action="store_true", help="compare each result with its plan, tensor by tensor")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "table.md").open("w") as table:
        print(*COLUMNS, sep=" | ")
        table.write(" | ".join(COLUMNS) + "\n" + " | ".join("---" for _ in COLUMNS) + "\n")
        for size in options.gb:
            source = random_model(options.folder / f"model-{size:g}", options.shape, size)
            for method in options.methods:
                row = measure(method, source, options)
                (options.out / f"{method}-{size:g}gb.json").write_text(to_json(row))
                line = " | ".join(f"{row[c]:.2f}" if isinstance(row[c], float) else str(row[c]) for c in COLUMNS)
                print(line, flush=True)
                table.write(line + "\n")
            shutil.rmtree(source)


def random_model(folder: Path, shape: Path, size: float) -> Path:
    """A checkpoint of about `size` GB in bf16: as many blocks of the shape as fit."""
    config = deep(json_files.read_json(shape), size)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    random_weights.write(config, folder, threads=THREADS)
    return folder


def deep(config: dict[str, Any], size: float) -> dict[str, Any]:
    """The same configuration with as many blocks as make about `size` GB in bf16, one at least."""
    tensors = architectures.tensors(config)
    depth = config["num_hidden_layers"]
    layer = sum(t.nbytes for name, t in tensors.items() if ".layers." in name) / depth
    rest = sum(t.nbytes for t in tensors.values()) - layer * depth
    return {**config, "num_hidden_layers": max(1, min(depth, round((size * 1e9 - rest) / layer)))}


def measure(method: str, source: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Quantize in a fresh process, after the same bytes were read and written once."""
    job = _job(method, source)
    planned = plan.make(job, source)
    out = source.with_name(f"{source.name}-{method}")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    seconds = move_bytes(source, out / "moved", planned.bytes, in_turn=False)
    in_turn = move_bytes(source, out / "moved", planned.bytes, in_turn=True)
    drop_caches(source)
    Request(job, str(out), {"source": str(source)}, exempt=planned.ignore).write(out / "request.json")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [options.python, str(Path(__file__).resolve()), "--work", str(out / "request.json")]
    with (options.out / f"{source.name}-{method}.log").open("w") as log:
        subprocess.run(command, check=True, env=environ, stdout=log, stderr=subprocess.STDOUT)
    result = json_files.read_json(out / "measured.json")
    made = {n: (t.dtype, t.shape) for n, t in checkpoint.headers(out / "artifact").items()}
    row = {
        "method": method, "model_gb": planned.bf16_bytes / 1e9, "artifact_gb": planned.bytes / 1e9,
        "as_planned": made == {n: (t.dtype, t.shape) for n, t in planned.tensors.items()},
        "matrices": len(planned.quantized), "files": len(list(source.glob("*.safetensors"))), "bytes_s": seconds,
        "bytes_in_turn_s": in_turn, "ratio": result["stream_s"] / seconds,
        "ratio_in_turn": result["stream_s"] / in_turn, "gb_per_s": planned.bf16_bytes / 1e9 / result["stream_s"], **result,
        "machine": f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    if options.inspect:
        from qforge.inspect.inspect import inspect

        started = time.monotonic()
        found = inspect(out / "artifact", planned, source)
        row["inspect"] = {"faults": found.faults, "checked": found.checked, "seconds": time.monotonic() - started}
    shutil.rmtree(out)
    return row


def _job(method: str, source: Path) -> Any:
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from qforge.config.job import Job

    ConfigStore.instance().store(name="schema", node=Job)
    given = [f"method={method}", "model=local", "model.name=random", f"model.path={source}", "hw=h200", "runtime=vllm"]
    given += ["group_size=128"] if method == "rtn" else []
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return OmegaConf.to_object(compose("config", given))


def move_bytes(source: Path, target: Path, size: int, in_turn: bool) -> float:
    """Seconds to read every file of `source` and to write `size` bytes, with nothing in between.

    Either file after file, into one; or into as many as there are, a piece of each in turn, which is the fastest way
    there is: a file system lets one thread at a time write to a file.
    """
    drop_caches(source)
    target.mkdir()
    sizes = {file: file.stat().st_size for file in sorted(source.glob("*.safetensors"))}
    pieces = [[(file, start) for start in range(0, sizes[file], CHUNK)] for file in sizes]
    todo = [piece for turn in zip_longest(*pieces) for piece in turn if piece] if in_turn else list(chain(*pieces))
    each = size // len(todo)
    buffers = threading.local()
    started = time.monotonic()
    names = {file: file.name if in_turn else "all" for file in sizes}
    written = {name: os.open(target / name, os.O_RDWR | os.O_CREAT, 0o644) for name in names.values()}

    def move(number: int) -> None:
        if not hasattr(buffers, "own"):
            buffers.own = memoryview(bytearray(CHUNK))
        file, start = todo[number]
        nbytes = min(CHUNK, sizes[file] - start)
        fill(buffers.own[:nbytes], checkpoint.Stored("U8", (nbytes,), file, start))
        place = start // CHUNK if in_turn else number
        os.pwrite(written[names[file]], buffers.own[:each], place * each)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(move, range(len(todo))))
    for descriptor in written.values():
        os.close(descriptor)
    seconds = time.monotonic() - started
    shutil.rmtree(target)
    return seconds


def drop_caches(folder: Path) -> None:
    """Let the next reader of these files find them on the disk."""
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def work(file: Path) -> None:
    """In the stage's environment: the stage as it is, with a clock at the three places where its time goes."""
    started = time.monotonic()
    import torch
    from pydantic import TypeAdapter

    from qforge.methods import packing, source, stacks
    from qforge.stages.quantize import quantize

    imported = time.monotonic()
    request = TypeAdapter(Request).validate_json(file.read_text())
    clock: dict[str, list[tuple[float, float]]] = {"read": [], "pack": [], "write": []}
    for owner, name, into in (
        (source, "fill", "read"), (stacks, "fill", "read"), (packing.Packer, "pack", "pack"),
        (Shard, "put", "write"), (Shard, "put_run", "write"),
    ):  # fmt: skip
        setattr(owner, name, timed(getattr(owner, name), clock[into]))
    result = quantize(request)
    done, peak = time.monotonic(), _peak_rss()
    cuda = torch.cuda.is_available()
    measured = {
        "stream_s": done - imported, "import_s": imported - started, "peak_rss_gib": peak,
        "peak_gpu_gib": torch.cuda.max_memory_reserved() / 2**30 if cuda else None, "cpu_s": result["cpu_seconds"],
        "device": torch.cuda.get_device_name() if cuda else "cpu", "versions": result["versions"],
        "thread_seconds": {name: sum(end - begin for begin, end in calls) for name, calls in clock.items()},
        "before_s": min(begin for begin, _ in clock["read"]) - imported,
        "after_s": done - max(end for _, end in clock["write"]),
        "profile": profile(request),
    }  # fmt: skip
    Path(request.out, "measured.json").write_text(to_json(measured))


def _peak_rss() -> float:
    """GiB of this process alone: what getrusage says includes the process that started it."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 2**20


def timed(function: Callable[..., Any], into: list[tuple[float, float]]) -> Callable[..., Any]:
    """The function, noting begin and end of every call."""

    def run(*args: Any, **kwargs: Any) -> Any:
        started = time.monotonic()
        result = function(*args, **kwargs)
        into.append((started, time.monotonic()))
        return result

    return run


def profile(request: Request) -> str:
    """torch's own account of one batch of matrices."""
    import torch

    from qforge.methods.packing import BLOCK, Packer

    packer = Packer(request.job.method.args["QuantizationModifier"])
    rows = torch.randn(BLOCK[packer.device.type] // 4096, 2048).bfloat16()
    packer.pack(rows, [len(rows)])
    with torch.profiler.profile() as found:
        packer.pack(rows, [len(rows)])
    by = "self_cuda_time_total" if packer.device.type == "cuda" else "self_cpu_time_total"
    return str(found.key_averages().table(sort_by=by, row_limit=15, max_name_column_width=60))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(Path(sys.argv[2]))
    else:
        main()
