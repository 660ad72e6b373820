"""Where the artifact of a run goes besides its folder, as configured. Who uploads it: publish/."""

from __future__ import annotations

from dataclasses import dataclass

from qforge.config.bounds import line


@dataclass
class Publish:
    """Where an artifact is uploaded to when its run has ended."""

    repo: str | None = line(None)  # of a Hugging Face hub, ORG/NAME; none: nothing is uploaded
    private: bool = False  # whether the repository, where it is made for this, is private
    anyway: bool = False  # upload what is unsound, undecided, not judged or without a gate that it must have, too
