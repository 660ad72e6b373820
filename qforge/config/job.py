"""The job: everything a run is told, typed. Imports nothing heavy: this is what `run.py --help` pays for."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from qforge.config.bounds import bounded, line, unbounded
from qforge.config.calibration import Calibration
from qforge.config.evaluation import MISSING, Eval
from qforge.config.kv_cache import KvCache
from qforge.config.method import Method
from qforge.config.model import Model
from qforge.config.publish import Publish
from qforge.config.speech import Speech
from qforge.config.tracking import Tracking

STAGES = ["quantize", "inspect", "serve", "evaluate", "bench", "speak", "judge", "report"]
ON_REQUEST = ["sensitivity"]  # stages that run only where they are asked for


class OnFailure(Enum):
    stop = "stop"
    fallback = "fallback"


class Vendor(Enum):
    nvidia = "nvidia"
    amd = "amd"
    cpu = "cpu"


class Engine(Enum):
    vllm = "vllm"
    transformers = "transformers"


class Unservable(Enum):
    refuse = "refuse"
    measure = "measure"


class Unit(Enum):
    """What is quantized or left in bf16 as one, for sensitivity."""

    module = "module"  # what vLLM computes as one matrix: q,k,v; gate,up; all experts of a layer
    block = "block"  # a transformer block
    kind = "kind"  # the modules of one name in all blocks: every down_proj, every q,k,v


@dataclass
class Rule:
    """Modules to leave in bf16: an exact module name, `re:` and a pattern, a block (`block:first`, `block:3/o_proj`), a role
    (`role:` and a kind or the last part of a module's name: lm_head, mlp, down_proj ...) or `measured:sensitivity`, which
    stands for what a measurement will name."""

    match: list[str] = bounded(MISSING, non_empty=True, unique=True)  # as above
    why: str = line(MISSING)  # the reason, which plan and report repeat


@dataclass
class Sensitivity:
    """What each part of the model loses in 4 bits: KL to bf16 when it alone is quantized, and when it alone is not."""

    unit: Unit = Unit.module  # what is measured as one: fused matrices, blocks, or one kind in all blocks
    # one of eval.texts; its last quarter, while evaluation scores from the start on
    text: str = line("python_reference")
    windows: int = bounded(4, at_least=1)  # of the text
    length: int = bounded(256, at_least=2)  # tokens per window
    # what exempt=from_sensitivity may add to the fully quantized checkpoint
    budget_gib: float | None = bounded(None, above=0)


@dataclass
class Hardware:
    name: str = line(MISSING)  # of its file in conf/hw/
    vendor: Vendor = MISSING  # of the devices; a runtime says whose it is for
    product: list[str] = bounded(factory=list, unique=True)  # what its driver calls it, for hw=auto
    # CUDA compute capability, AMD gfx name, or avx2, avx512, amx; none: this CPU's own
    capability: str | None = line(None)
    memory_gib: float | None = bounded(None, above=0)  # of one device; none: this machine's own
    bandwidth_gbs: float | None = bounded(None, above=0)  # of that memory, in 1e9 bytes/s
    tflops: dict[str, float] = bounded(factory=dict, above=0)  # dense, by arithmetic: bf16, fp8, fp4, int8
    args: dict[str, Any] = unbounded(factory=dict)  # vLLM's own options that this hardware wants


@dataclass
class Runtime:
    name: str = line(MISSING)  # of its file in conf/runtime/
    engine: Engine = MISSING  # what serves, or scores
    vendors: list[Vendor] = bounded(MISSING, non_empty=True, unique=True)  # whose hardware it is for
    env: str | None = line(None)  # managed environment
    towers: str | None = line(None)  # taken instead for a model that sees or hears; none: env has what that needs
    python: str | None = line(None)  # or an existing interpreter (a path, or a name on PATH): somebody's own vLLM
    container: str | None = line(None)  # or an image of podman or docker
    container_args: list[str] = unbounded(factory=list)  # options of podman run or docker run
    caution: str = ""  # what every plan with it says
    args: dict[str, Any] = unbounded(factory=dict)  # the engine's own options, under its own names
    environ: dict[str, str] = unbounded(factory=dict)  # variables of its processes
    start_timeout: int = bounded(MISSING, at_least=1)  # seconds until the server must answer
    timed: bool = False  # of transformers: whether its own generate() is timed, too; servers always are
    speech: Speech | None = None  # what lets the model speak, beside the engine that scores its text


@dataclass
class Serve:
    keep: bool = False  # serve until Ctrl-C instead of measuring
    port: int | None = bounded(None, at_least=1, at_most=65535)  # none: a free one
    api_key: str | None = line(None)  # ${oc.env:NAME}; none: a random one, printed with the curl line
    shared: bool = False  # beside other jobs' servers on its devices, which only what is timed has by itself


@dataclass
class Bench:
    name: str = line(MISSING)  # of its file in conf/bench/
    # streams at once; each is measured
    concurrency: list[int] = bounded(MISSING, at_least=1, non_empty=True, unique=True)
    input_len: int = bounded(MISSING, at_least=1)  # tokens of a prompt; of a trace, of the longest that is sent
    output_len: int = bounded(MISSING, at_least=2)  # tokens of an answer; of a trace, of the longest that is asked for
    # a file of requests, for their lengths and shared beginnings (qforge/evaluation/trace.py); none: all of one length
    trace: str | None = None
    requests: int = bounded(MISSING, at_least=1)  # per stream and repeat
    repeats: int = bounded(MISSING, at_least=1)  # of which the median is reported


@dataclass
class Criterion:
    """One line of the verdict. Exactly one of at_most and at_least, in the unit that the metric's name ends with."""

    metric: str = line(MISSING)  # one of qforge.judge.metrics.METRICS
    at_most: float | None = unbounded(None)  # the bound, or
    at_least: float | None = unbounded(None)  # this one
    # for speed and latency: at how many streams; none: the most that bench measures
    concurrency: int | None = bounded(None, at_least=1)
    why: str = line(MISSING)  # the reason, which the verdict repeats


@dataclass
class Gate:
    name: str = line(MISSING)  # of its file in conf/gate/
    criteria: dict[str, Criterion] = bounded(factory=dict, non_empty=True)
    required: bool = True  # whether a run ends with another exit code where it does not hold


@dataclass
class Experiment:
    """What a run is to find out: a file of conf/experiment/, which sets other keys as well."""

    name: str = line(MISSING)  # what tables call its rows
    question: str = line(MISSING)  # what the run is to find out
    expect: str = line(MISSING)  # before it is measured, so that a surprise is seen as one


@dataclass
class Job:
    model: Model = field(default_factory=Model)
    method: Method = field(default_factory=Method)
    group_size: int | None = unbounded(None)  # the method's format decides: plan/feasibility.py
    exempt: dict[str, Rule] = unbounded(factory=dict)
    sensitivity: Sensitivity = field(default_factory=Sensitivity)
    kv: KvCache = field(default_factory=KvCache)
    calib: Calibration = field(default_factory=Calibration)
    hw: Hardware = field(default_factory=Hardware)
    runtime: Runtime = field(default_factory=Runtime)
    # existing interpreters, by the managed environment they replace: `python` and variables that it needs (PYTHONPATH)
    envs: dict[str, dict[str, str]] = unbounded(factory=dict)
    serve: Serve = field(default_factory=Serve)
    eval: Eval = field(default_factory=Eval)
    bench: Bench = field(default_factory=Bench)
    gate: Gate = field(default_factory=Gate)
    # what a sound checkpoint can be good for: each a gate, judged in every run whatever `gate` asks
    goals: dict[str, Gate] = bounded(factory=dict)
    tracking: Tracking = field(default_factory=Tracking)
    publish: Publish = field(default_factory=Publish)
    experiment: Experiment | None = None
    # which of them run, in this order
    stages: list[str] = bounded(
        factory=lambda: list(STAGES), one_of=(*STAGES, *ON_REQUEST), non_empty=True, unique=True
    )
    plan_only: bool = False  # print the plan and stop: nothing is loaded
    unservable: Unservable = Unservable.refuse  # or measure its quality all the same, on weights unpacked to bf16
    artifact: str | None = line(None)  # start from this quantized checkpoint instead of quantizing
    verify: str | None = line(None)  # check this artifact against its own provenance, and stop
    rescore: int = bounded(0, at_least=0)  # with verify: so many windows of each text are scored again
    on_failure: OnFailure = OnFailure.stop  # fallback: try another exporter, then the next runtime of a list
    store: str = line(".store")  # relative to the checkout; of an installed qforge, to where it was started
    debug: bool = False  # tracebacks instead of one line

    @property
    def engine_args(self) -> dict[str, Any]:
        """The engine's options: what hardware and model want, cache and method, and the user's on top of it."""
        own = {"kv_cache_dtype": self.kv.dtype, "quantization": self.method.online}
        return {**self.hw.args, **self.model.args, **own, **self.runtime.args}

    @property
    def makes_checkpoint(self) -> bool:
        """Whether a checkpoint is to be made: weights are packed, or bf16 ones get scales of the KV cache."""
        return not self.artifact and (self.method.function is not None or self.kv.calibrated)

    @property
    def is_original(self) -> bool:
        """Whether it is the unquantized model with a KV cache in 16 bits, to which others are compared."""
        return not (self.method.function or self.method.online or self.artifact) and self.kv.plain

    @property
    def reads_text(self) -> bool:
        """Whether a checkpoint is to be made that depends on the calibration text; of a given one nobody knows."""
        return not self.artifact and (self.method.calibrated or self.kv.calibrated)

    @property
    def speaks(self) -> bool:
        """Whether the model is to be served with all its stages, so that it answers aloud."""
        return self.runtime.speech is not None and (self.serve.keep or "speak" in self.stages)

    def comes_to(self, stage: str) -> bool:
        """Whether this run will run that stage; one that only plans runs none."""
        return stage in self.stages and not self.plan_only
