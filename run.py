"""python run.py [group=option ...] [key=value ...]     see python run.py --help"""

import sys

from qforge import control

control.enter()

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from qforge import cli
from qforge.sweeps import callback

exit_codes: list[int] = []


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> int:
    folder = HydraConfig.get().runtime.output_dir
    exit_codes.append(1)  # if it ends with a bug of ours
    exit_codes[-1] = cli.run(cli.command_of(config), folder, debug=bool(OmegaConf.select(config, "debug")))
    return exit_codes[-1]


def exit_code() -> int:
    """Run what the command line says; 0 done, 1 failed, 2 refused or bad input, 130 interrupted."""
    try:
        sys.argv = cli.expand(sys.argv)
        main()
    except ValueError as refusal:  # of hw=auto, of a list of experiments, or of a search
        print(f"refused: {refusal}", file=sys.stderr)
        return 2
    except SystemExit as error:  # Hydra has printed what it refused: before any job ran, that is bad input
        return int(error.code or 0) if exit_codes or not error.code else 2
    except KeyboardInterrupt:  # said already; a sweep ends here as well
        return 130
    finally:
        callback.finish()
    return callback.ended[0] if callback.ended else max(exit_codes, default=0)


if __name__ == "__main__":
    sys.exit(exit_code())
