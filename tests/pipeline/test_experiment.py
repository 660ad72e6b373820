"""What the command line changes of an experiment is said, since the row bears its name."""

from __future__ import annotations

import pytest
from support.command import Cli

PLAN = ("plan_only=true", "hw=h100")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["experiment=a1", "method=rtn"], "experiment=a1 sets method=nvfp4, and this run has method=rtn: its question"),
        (["experiment=rtn", "group_size=32"], "experiment=rtn sets group_size=64, and this run has group_size=32: "),
        (
            ["experiment=a2_g16", "exempt=boundary"],
            "experiment=a2_g16 sets exempt=[lm_head,embed_tokens], and this run has exempt=b",
        ),
        (["experiment=rtn", "group_size=64", "eval=quick"], ""),
        (["experiment=a2", "exempt=[lm_head,embed_tokens]", "unservable=measure"], ""),
        (["method=rtn", "group_size=32"], ""),
    ],
)
def test_what_is_changed_of_an_experiment_is_said(cli: Cli, overrides: list[str], said: str) -> None:
    notes = [n for n in cli.succeed_inside(*PLAN, *overrides).json("plan")["notes"] if n.startswith("experiment=")]
    assert len(notes) == bool(said)
    assert all(note.startswith(said) for note in notes)
