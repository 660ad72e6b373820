"""python run.py [group=option ...] [key=value ...]     see python run.py --help"""

import sys

from qforge import control

control.enter()

from qforge.main import main

if __name__ == "__main__":
    sys.exit(main())
