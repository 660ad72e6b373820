"""unservable=measure: what nothing serves is quantized, unpacked and scored, and never looks like a served row."""

from __future__ import annotations

import numpy as np
import pytest
from support.command import QUICK, Cli, Finished

from qforge.models.checkpoint import headers


@pytest.fixture(scope="module")
def simulated(cli: Cli) -> Finished:
    """NVFP4 at group 64, the seed's own choice, which no kernel reads."""
    return cli.succeed("method=nvfp4_llmc", "group_size=64", "unservable=measure", *QUICK, "runtime=transformers")


def test_it_is_marked_measured_and_not_timed(simulated: Finished) -> None:
    row, planned = simulated.json("row"), simulated.json("plan")
    assert planned["serving"]["how"] == "simulated"
    assert "no kernel reads nvfp4 at group 64; unservable=measure" in row["serving"]["reason"]
    assert row["measured"]["evaluate"]["texts"]["wikitext"]["perplexity"] < 100
    assert "not_measured" in row["measured"]["bench"]
    assert planned["bytes"] < planned["bf16_bytes"] / 2  # as it would be if it could be packed


def test_its_weights_lie_on_the_formats_grid(simulated: Finished, model) -> None:
    name = "model.layers.3.mlp.up_proj.weight"
    ours = headers(simulated.folder / "artifact")[name].read().astype(np.float32)
    source = headers(model)[name].read().astype(np.float32)
    groups = ours.reshape(-1, 64)
    assert max(len(np.unique(group)) for group in groups) <= 15  # FP4 has 15 values
    assert np.abs(ours - source).mean() < 0.15 * np.abs(source).mean()
    assert simulated.json("inspect")["checked"]["matrices whose weights lie on the format's grid"] == 210


def test_modelopt_and_llm_compressor_simulate_alike(cli: Cli, simulated: Finished) -> None:
    other = cli.succeed("method=nvfp4", "group_size=64", "unservable=measure", "stages=[quantize,inspect]")
    for name in ("model.layers.3.mlp.down_proj.weight", "model.layers.20.self_attn.o_proj.weight"):
        a, b = (headers(run.folder / "artifact")[name].read().astype(np.float32) for run in (simulated, other))
        assert np.abs(a - b).mean() < 0.02 * np.abs(a).mean()


def test_it_is_not_served_to_users(cli: Cli, model) -> None:
    done = cli.inside(
        "method=nvfp4_llmc", "group_size=64", "unservable=measure", "stages=[quantize,serve]", "serve.keep=true"
    )
    assert done.code == 2
    assert "Nothing serves them packed" in done.output


def test_integers_of_group_16_as_well(cli: Cli, model) -> None:
    assert (
        "unservable=measure to measure its quality without serving it"
        in cli.inside("method=rtn", "group_size=16").output
    )
    done = cli.succeed("method=rtn", "group_size=16", "unservable=measure", "stages=[quantize,inspect]")
    assert done.json("inspect")["faults"] == []
