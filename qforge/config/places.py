"""Where things lie: what comes with qforge, what belongs to the user, what is made for this machine.

Of a checkout all three are its folder. An installed qforge keeps what comes with it in qforge/share (pyproject.toml puts it
there), takes the folder that it is started in for the user's, and makes environments in the user's cache.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from qforge import __version__

PACKAGE = Path(__file__).resolve().parents[1]
SHARE = PACKAGE / "share"
INSTALLED = SHARE.is_dir()  # from a wheel; a checkout has no such folder
ROOT = SHARE if INSTALLED else PACKAGE.parent  # conf/, data/, envs/, results/ and pyproject.toml
CONF = ROOT / "conf"
PROJECT_VARIABLE = "QFORGE_PROJECT"  # set for stages, which may be started elsewhere
CONFIG_VARIABLE = "QFORGE_CONFIG_DIR"  # as --config-dir
CACHE_VARIABLE = "QFORGE_CACHE"
COMMAND_VARIABLE = "QFORGE_COMMAND"  # how --help calls qforge


def project() -> Path:
    """The folder of the user's own paths, and of the store."""
    return Path(os.environ.get(PROJECT_VARIABLE) or Path.cwd()).absolute() if INSTALLED else ROOT


def cache() -> Path:
    """What is made for this machine by an installed qforge: environments are gigabytes, and projects share them."""
    given = os.environ.get(CACHE_VARIABLE)
    return (
        Path(given).absolute()
        if given
        else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "qforge"
    )


def given_path(path: str) -> Path:
    """The file or folder that a path of the configuration means: the user's where there is one, else what comes with qforge."""
    own, ours = project() / os.path.expanduser(path), ROOT / os.path.expanduser(path)
    return ours if ours.exists() and not own.exists() else own


def store_path(path: str) -> Path:
    """The store that the configuration gives: always the user's."""
    return (project() / os.path.expanduser(path)).resolve()


def option_files(group: str) -> dict[str, Path]:
    """The options of a group of the configuration by name: those of qforge, then those of the user's folder."""
    folders = [CONF, *([Path(own)] if (own := os.environ.get(CONFIG_VARIABLE)) else [])]
    return {file.stem: file for folder in reversed(folders) for file in sorted((folder / group).glob("*.yaml"))}


def command() -> list[str]:
    """How qforge is started, as the user would type it: the words before the keys."""
    own = os.environ.get(CONFIG_VARIABLE)
    return [*(["qforge"] if INSTALLED else ["python", "run.py"]), *(["--config-dir", own] if own else [])]


def readable() -> tuple[Path, ...]:
    """The folders that a stage reads besides model, checkpoint and store: what a container must be given."""
    return (PACKAGE, _metadata(), importable(), project()) if INSTALLED else (ROOT,)


def importable() -> Path:
    """The folder to put on another Python's path so that it finds qforge, and nothing else that is installed beside it.

    Of an installed qforge it is a folder of links, made on first use: to the package, and to its metadata, which name the
    plugin that vLLM loads.
    """
    if not INSTALLED:
        return ROOT
    folder = cache() / "code" / f"{__version__}-{hashlib.sha256(str(PACKAGE).encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    for target in (PACKAGE, _metadata()):
        _link(folder / target.name, target)
    return folder


def _metadata() -> Path:
    return PACKAGE.parent / f"qforge-{__version__}.dist-info"


def _link(link: Path, target: Path) -> None:
    """A link, also where another process makes the same at this moment."""
    if link.is_symlink():
        return
    own = link.with_name(f".{link.name}.{os.getpid()}")
    own.symlink_to(target)
    own.replace(link)
