"""Train a noise conditional score network on images, and draw samples from it.

python ./training_MNIST.py                          # about ten minutes on two cores
python ./training_MNIST.py --minutes 60             # better digits
python ./training_MNIST.py --dataset my/pictures    # what `ncsn train my/pictures` does

The story is told, from top to bottom, by ``learn`` in src/ncsn/commands/train.py.
"""

import sys

try:
    import ncsn  # noqa: F401
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; install the package first, with `pip install .` in this folder")

from ncsn.cli.interrupts import quit_on_signals

quit_on_signals()
from ncsn.cli import console
from ncsn.cli.train import learn
from ncsn.learn.settings import Images

if __name__ == "__main__":
    console.run(learn, Images)
