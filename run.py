"""python run.py [group=option ...] [key=value ...]     see python run.py --help"""

import sys

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from qforge.config import Job

ConfigStore.instance().store(name="schema", node=Job)
exit_codes: list[int] = []


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> int:
    from qforge.pipeline import run  # late: `--help` must not pay for it

    folder = HydraConfig.get().runtime.output_dir
    exit_codes.append(1)  # if it ends with a bug of ours
    exit_codes[-1] = run(lambda: OmegaConf.to_object(config), folder, debug=bool(OmegaConf.select(config, "debug")))
    return exit_codes[-1]


if __name__ == "__main__":
    try:
        main()
    except SystemExit as error:  # Hydra has printed what it refused: before any job ran, that is bad input
        sys.exit(error.code if exit_codes or not error.code else 2)
    except KeyboardInterrupt:  # said already; a sweep ends here as well
        sys.exit(130)
    sys.exit(max(exit_codes, default=0))
