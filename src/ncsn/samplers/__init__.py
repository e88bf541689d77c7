"""Samplers: what turns a score into samples.

Every sampler is an iterator of ``Step(sigma, x)``, so that progress bars, animations and early stopping belong to the
caller: ``*path, last = annealed_langevin(score, x, sigmas, ...)``, and ``last.x`` are the samples.  With ``denoise``
the last state is the posterior mean.  ``methods.METHODS`` is the one table of their names and defaults.
"""

from ncsn.samplers.flow import dpm_solver as dpm_solver
from ncsn.samplers.flow import edm as edm
from ncsn.samplers.flow import encode as encode
from ncsn.samplers.flow import euler as euler
from ncsn.samplers.flow import heun as heun
from ncsn.samplers.flow import slerp as slerp
from ncsn.samplers.langevin import annealed_langevin as annealed_langevin
from ncsn.samplers.langevin import consistent_annealed as consistent_annealed
from ncsn.samplers.langevin import langevin as langevin
from ncsn.samplers.langevin import predictor_corrector as predictor_corrector
from ncsn.samplers.methods import GUIDED as GUIDED
from ncsn.samplers.methods import METHODS as METHODS
from ncsn.samplers.methods import Descent as Descent
from ncsn.samplers.methods import Method as Method
from ncsn.samplers.step import NonFiniteSampleError as NonFiniteSampleError
from ncsn.samplers.step import Step as Step
from ncsn.samplers.step import check_ladder as check_ladder
