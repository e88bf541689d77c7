"""A run's networks as ONNX files: for browsers, phones, and whatever else has no PyTorch.

A file holds a score, preconditioning included: x (batch, *shape) and sigma (batch,) in float32, and label (batch,) in
int64 if the network knows classes (−1: none), become score (batch, *shape), ∇ₓ log p_σ(x | label), for any batch.  The
mean of the clean data is x + σ²·score (Tweedie).  The smaller network that samples move away from, if there is one, is
a file of its own, so that only those who guide load it, and ask it on the noise levels where it guides:
score + (w − 1)·(score − guide).  What the program around it must know is in the file's metadata (``Card``).
"""

from ncsn.exporting.card import Card, read
from ncsn.exporting.writing import Exported, export

__all__ = ["Card", "Exported", "export", "read"]
