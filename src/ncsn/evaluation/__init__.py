"""How good generated images are: every number beside what real ones score, and how many were judged."""

from ncsn.evaluation.borrowed import dinov2, efficientnet, inception, onnx, torchscript
from ncsn.evaluation.chosen import choose
from ncsn.evaluation.classifiers import digits, load_classifier, of_classifier, trained
from ncsn.evaluation.features import PIXELS, Features, Judged, judge
from ncsn.evaluation.report import Evaluation, Metric
from ncsn.evaluation.ruler import Ruler, evaluate, nearest
from ncsn.evaluation.samples import at_8_bits, coarse, read_samples, write_samples

__all__ = [
    "PIXELS",
    "Evaluation",
    "Features",
    "Judged",
    "Metric",
    "Ruler",
    "at_8_bits",
    "choose",
    "coarse",
    "digits",
    "dinov2",
    "efficientnet",
    "evaluate",
    "inception",
    "judge",
    "load_classifier",
    "nearest",
    "of_classifier",
    "onnx",
    "read_samples",
    "torchscript",
    "trained",
    "write_samples",
]
