"""A run: the result of training, and everything you can do with it."""

from ncsn.posteriors.matching import Posterior as Posterior
from ncsn.run.folder import read_config as read_config
from ncsn.run.folder import storable_settings as storable_settings
from ncsn.run.folder import write_config as write_config
from ncsn.run.folder import write_model as write_model
from ncsn.run.options import SamplingOptions as SamplingOptions
from ncsn.run.recipe import Argument as Argument
from ncsn.run.recipe import Recipe as Recipe
from ncsn.run.run import Run as Run
from ncsn.run.run import block_seed as block_seed
from ncsn.run.run import generator_of as generator_of
from ncsn.run.run import load as load
from ncsn.run.steps import Drawn as Drawn
from ncsn.run.steps import Steps as Steps
from ncsn.run.steps import cost as cost
