"""Networks: plain modules ``network(x, c)`` → the shape of x.  They know nothing of scores.

c = ¼ ln σ has one value per example, or a single one that all of them share.
"""

from ncsn.networks.mlp import MLP, ResidualMLP
from ncsn.networks.refinenet import NCSN, NCSNv2
from ncsn.networks.unet import UNet

__all__ = ["MLP", "NCSN", "NCSNv2", "ResidualMLP", "UNet"]
