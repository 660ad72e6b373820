"""python run.py [group=option ...] [key=value ...]     see python run.py --help"""

import sys
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from qforge import callback, experiments, hardware, search
from qforge.config import Job

ConfigStore.instance().store(name="schema", node=Job)
exit_codes: list[int] = []


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> int:
    from qforge.command import Command, run  # late: `--help` must not pay for it

    folder = HydraConfig.get().runtime.output_dir
    exit_codes.append(1)  # if it ends with a bug of ours
    command = Command(lambda: typed(config), again, several())
    exit_codes[-1] = run(command, folder, debug=bool(OmegaConf.select(config, "debug")))
    return exit_codes[-1]


def typed(config: DictConfig) -> Job:
    """The job. Raises OmegaConf's exceptions for a value that is missing or of another type."""
    job: Any = OmegaConf.to_object(config)
    assert isinstance(job, Job)
    return job


def again(*overrides: str) -> Job:
    """The job of the same command line with other choices: what method=auto and runtime=[a,b] try."""
    replaced = {override.partition("=")[0] for override in overrides}
    own = [o for o in HydraConfig.get().overrides.task if o.partition("=")[0].lstrip("+") not in replaced]
    return typed(hydra.compose("config", [*own, *overrides]))


def several() -> dict[str, list[str]]:
    """What was given as a list, as in hw=[h100,mi325x]: Hydra would merge the options into one."""
    given = OverridesParser.create().parse_overrides(HydraConfig.get().overrides.task)
    values: list[tuple[str, Any]] = [(o.key_or_group, o.value()) for o in given]
    return {key: value for key, value in values if isinstance(value, list)}


if __name__ == "__main__":
    try:
        sys.argv = search.named(experiments.listed(hardware.named(sys.argv)))
        main()
    except ValueError as refusal:  # of hw=auto, of a list of experiments, or of a search
        print(f"refused: {refusal}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as error:  # Hydra has printed what it refused: before any job ran, that is bad input
        sys.exit(error.code if exit_codes or not error.code else 2)
    except KeyboardInterrupt:  # said already; a sweep ends here as well
        sys.exit(130)
    sys.exit(callback.ended[0] if callback.ended else max(exit_codes, default=0))
