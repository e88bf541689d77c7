"""Networks: plain modules that map ``network(x, c)`` to the shape of x.  They do not depend on scores.

c = ¼ ln σ has one value per example, or a single one for all of them.
"""

from ncsn.networks.mlp import MLP, ResidualMLP
from ncsn.networks.unet import UNet

__all__ = ["MLP", "ResidualMLP", "UNet"]
