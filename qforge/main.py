"""What `python run.py` and an installed `qforge` start: the commands that take no keys, or Hydra with the keys."""

from __future__ import annotations

import errno
import importlib
import itertools
import locale
import os
import shlex
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from qforge import cli
from qforge.config import overrides, places
from qforge.config.messages import message
from qforge.store import provenance
from qforge.sweeps import callback

COMMANDS = {
    "envs": "qforge.envs.__main__",
    "init": "qforge.starter",
    "publish": "qforge.publish.__main__",
    "report": "qforge.report.__main__",
    "store": "qforge.store.__main__",
    "track": "qforge.tracking.__main__",
}
CONFIG_DIR = ("--config-dir", "-cd")
RAISE = "HYDRA_FULL_ERROR"  # with it Hydra raises what it refuses; without it, it prints several lines and exits

raise_for_user = RAISE in os.environ
exit_codes: list[int] = []


def main() -> int:
    """Run what the command line says; 0 done, 1 failed, 2 refused, 3 a required gate does not hold, 130 interrupted."""
    _speak_utf8()
    os.environ.setdefault(
        "HF_HUB_DISABLE_TELEMETRY", "1"
    )  # or the hub's library asks for more than models, and may fail by it
    program, *arguments = sys.argv
    if arguments == ["--version"]:
        print(version())
        return 0
    try:
        if arguments and arguments[0] in COMMANDS:
            return int(importlib.import_module(COMMANDS[arguments[0]]).main(arguments[1:]))
        os.environ[places.COMMAND_VARIABLE] = shlex.join(places.command())
        sys.argv = [program, *cli.expand(_with_own_options(arguments))]
        os.environ[RAISE] = "1"
        _run_hydra()
    except (
        ValueError,
        HydraException,
        OmegaConfBaseException,
        YAMLError,
    ) as refusal:  # before any job ran, that is bad input
        if raise_for_user:
            raise
        print(f"refused: {message(refusal).removeprefix('refused: ')}", file=sys.stderr)
        return 1 if exit_codes else 2
    except AssertionError as error:
        print(f"refused: {overrides.below_null(arguments, error)}", file=sys.stderr)
        return 2
    except OSError as error:
        if exit_codes or (arguments and arguments[0] in COMMANDS):
            raise
        fix = "free some space" if error.errno == errno.ENOSPC else "give a folder that can be created"
        print(f"refused: hydra.run.dir: {error}; {fix}", file=sys.stderr)
        return 2
    except SystemExit as error:  # argparse has printed what it refused, or a callback has
        return int(error.code or 0) if exit_codes or not error.code else 2
    except KeyboardInterrupt:  # said already; a sweep ends here as well
        return 130
    finally:
        callback.finish()
    if not exit_codes and not callback.ended and set(cli.SWEEP) & set(arguments):
        print("refused: --multirun: the values to sweep over give no job; name at least one", file=sys.stderr)
        return 2
    return callback.ended[0] if callback.ended else max(exit_codes, default=0)


@hydra.main(version_base="1.3", config_path=str(places.CONF), config_name="config")
def _run_hydra(config: DictConfig) -> int:
    if not raise_for_user:
        os.environ.pop(RAISE, None)  # it is composed; no process that the job starts inherits this
    folder = HydraConfig.get().runtime.output_dir
    exit_codes.append(1)  # if it ends with a bug of ours
    exit_codes[-1] = cli.run(cli.command_of(config), folder, debug=bool(OmegaConf.select(config, "debug")))
    from qforge.publish import publish
    from qforge.tracking import send

    if HydraConfig.get().mode is not RunMode.MULTIRUN:  # a sweep is sent whole, when it ends
        send.asked(config, Path(folder))
        exit_codes[-1] = exit_codes[-1] or publish.asked(config, Path(folder))
    return exit_codes[-1]


def _speak_utf8() -> None:
    """Begin again in Python's UTF-8 mode where the locale has another encoding (LC_ALL=C, ISO 8859): files and names are UTF-8
    everywhere, and what a run starts inherits it."""
    if sys.flags.utf8_mode or locale.getencoding().lower() == "utf-8":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # -I and -E do not read the variable


def version() -> str:
    """qforge's version, and the commit that it was made from, where that is known."""
    made = provenance.commit()
    commit = (
        f" (commit {made['commit']}{', with uncommitted changes' if made['dirty'] else ''})" if made["commit"] else ""
    )
    return f"qforge {made['version']}{commit}"


def _with_own_options(arguments: list[str]) -> list[str]:
    """The arguments with --config-dir, where that or its variable is given; what lists options then knows the folder too.

    Raises ValueError where there is no such folder, and for a file in it that Hydra would never read, since qforge has one of
    the same name.
    """
    given = [after for before, after in itertools.pairwise(arguments) if before in CONFIG_DIR]
    given += [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{CONFIG_DIR[0]}=")]
    folder = given[0] if given else os.environ.get(places.CONFIG_VARIABLE)
    if not folder:
        return arguments
    if not Path(folder).is_dir():
        raise ValueError(
            f"{CONFIG_DIR[0]} {folder}: no such folder; give yours, or make one with `qforge init {folder}`"
        )
    for file in sorted(Path(folder).rglob("*.yaml")):
        if (places.CONF / file.relative_to(folder)).exists():
            raise ValueError(
                f"{file}: qforge has an option of this name and would read its own; give yours another name"
            )
    os.environ[places.CONFIG_VARIABLE] = os.path.abspath(folder)
    return arguments if given else [CONFIG_DIR[0], folder, *arguments]
