"""A server for a checkpoint, asked first what it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from qforge.config.secrets import REFERENCE
from qforge.console import console, progress_line
from qforge.envs import interpreters
from qforge.envs.process import Environment
from qforge.models import formats, quantization_config
from qforge.models.checkpoint import headers
from qforge.models.modules import Module, from_tensors
from qforge.pipeline import answers, preflight
from qforge.pipeline import artifact as artifact_step
from qforge.pipeline.run import Run
from qforge.plan import support_matrix, towers
from qforge.plan.support_matrix import NEWEST
from qforge.runtimes import probe, vllm
from qforge.runtimes.server import Server, wait_for_end
from qforge.runtimes.vllm import MODEL


def print_address(server: Server, api_key: str | None) -> None:
    """How to talk to a server that stays; `api_key` as the job names it, none for a random one."""
    reference = REFERENCE.fullmatch(api_key or "")
    key = f"${reference[1]}" if reference else server.api_key  # the shell has the value, too
    console.print(f"serving on {server.base_url} until Ctrl-C; OpenAI's API, model name {MODEL!r}", style="bold")
    console.print(
        f"curl {server.base_url}/v1/chat/completions -H \"Authorization: Bearer {key}\" "
        f"-H 'Content-Type: application/json' -d '{{\"model\": \"{MODEL}\", \"messages\": "
        "[{\"role\": \"user\", \"content\": \"Hello\"}]}'",
    )  # fmt: skip


def settle(run: Run, tree: Sequence[Module]) -> Run:
    """The run, in the environment that its runtime has for a model of this tree."""
    return run.beside(towers.served_by(run.job, tree), run.prefix)


def serve(run: Run, artifact: Path) -> None:
    """Serve a checkpoint until Ctrl-C."""
    config = quantization_config.read(artifact)
    run = settle(run, from_tensors(headers(artifact), config))
    job = run.job
    layout = quantization_config.detect(config) or "bf16"
    group, scheme = quantization_config.group_size(config, layout), formats.FORMATS[layout].scheme
    moe = any(".experts." in name for name in headers(artifact))
    how = support_matrix.serving(scheme, layout, group, job.hw, job.runtime, moe)
    if group is not None and group not in formats.FORMATS[layout].group_sizes:
        raise ValueError(
            f"artifact={job.artifact}: {scheme} at group {group}, which no kernel reads; quantize it again"
        )
    if how.how is support_matrix.How.refused:
        raise ValueError(f"artifact={job.artifact} hw={job.hw.name}: {how.reason}; use {how.fix}")
    preflight.refuse_useless_server(run, how.how is support_matrix.How.emulated, how.reason)
    preflight.for_serving(run.job)
    answers.check(run, make=True)
    check_runtime(run)
    with server(run, False, artifact, interpreters.of_runtime(job)) as running:
        print_address(running, job.serve.api_key)
        wait_for_end(running)


def check_runtime(run: Run, unpacked: bool = False) -> str:
    """Ask the runtime what it has, and refuse it before any work if that is not what the job needs; probe.json.

    `unpacked`: the checkpoint will be a plain bf16 one, which every runtime reads. Returns its vLLM's version, or the
    newest where it does not say.
    """
    job, inventory = run.job, probe.probe(run.job, run.store)
    run.write("probe.json", inventory)
    if job.artifact:
        config = quantization_config.read(artifact_step.given(run))
        probe.check(job, inventory, quantization_config.announced(config).get("quant_method"))
    else:
        packed_by = formats.FORMATS[job.method.format].quant_method or (formats.CT if job.kv.calibrated else None)
        probe.check(job, inventory, None if unpacked else packed_by)
    console.print(f"  runtime    {job.runtime.name}: {probe.summary(inventory)}", style="dim")
    return probe.vllm_version(inventory) or NEWEST


@contextmanager
def server(run: Run, emulated: bool, artifact: Path, environment: Environment) -> Iterator[Server]:
    """A server for `artifact`, shown in the terminal while it starts."""
    log = run.folder / f"{run.prefix}serve.log"
    detail = f"{run.job.method.name} with {run.job.runtime.name}"
    with ExitStack() as until_done:
        with progress_line(f"{run.prefix}serve", detail) as line:
            running = until_done.enter_context(vllm.serving(run.job, emulated, artifact, environment, log, line.feed))
            line.note = ", ".join([detail, *running.facts["kernels"]])
        yield running
