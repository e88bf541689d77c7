"""Estimators for scikit-learn: ``ScoreImputer`` imputes missing values, and ``ScoreDensity`` computes log densities.

They need the extra ``tables``.  They take and return arrays of numbers, or DataFrames, which may also have text,
categories and dates.
"""

import logging
import warnings
from contextlib import nullcontext
from typing import TypeAlias, TypeVar

import numpy as np
import pandas
from jaxtyping import Float64
from sklearn.base import BaseEstimator, DensityMixin, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ncsn.data.columns import Columns, columns_of
from ncsn.learn.fit import fit
from ncsn.machine.messages import quieter
from ncsn.run.imputation import Unseen, check_unseen
from ncsn.run.options import UserData
from ncsn.settings import TrainSettings
from ncsn.tables.frames import numbers_of
from ncsn.tables.imputed import ImputedTable
from ncsn.tables.read import MIN_ROWS
from ncsn.tables.run import TableRun

Self = TypeVar("Self", bound="TableEstimator")
RandomState: TypeAlias = int | np.random.RandomState | None


class TableEstimator(BaseEstimator):
    """The base of both estimators, which are trained by ``ncsn.fit``."""

    steps: int
    minutes: float | None
    settings: TrainSettings | None
    random_state: RandomState
    verbose: bool

    def fit(self: Self, X: object, y: object = None) -> Self:
        """Learn the distribution of rows.

        ``X``: (n, d), an array of numbers or a DataFrame, with at least ten rows; NaN is a missing value.
        ``y``: ignored.
        Raises ValueError as ``ncsn.fit`` does.  Warns about columns that training leaves out, unless they are constant.
        """
        frame = self._frame(X, reset=True)
        self.seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        steps = self.steps if self.minutes is None else None
        run = fit(
            frame, minutes=self.minutes, steps=steps, seed=self.seed_, settings=self.settings, quiet=not self.verbose
        )
        assert isinstance(run, TableRun)  # as for every DataFrame
        self.run_ = run
        left_out = frame[frame.columns.difference(self._columns.names, sort=False)]
        self.most_frequent_ = {name: left_out[name].mode().iloc[0] for name in left_out.dropna(axis=1, how="all")}
        if varying := [name for name in left_out if left_out[name].nunique() != 1]:
            why = "nearly empty, nearly constant, or text with mostly different values"
            warnings.warn(f"columns left out because they are {why}: {', '.join(varying)}", stacklevel=2)
        self._empty = X.iloc[:0] if isinstance(X, pandas.DataFrame) else None
        return self

    def _frame(self, X: object, *, reset: bool = False) -> pandas.DataFrame:
        """The rows as a DataFrame with the column names of training."""
        if not reset:
            check_is_fitted(self)
        if isinstance(X, pandas.DataFrame):
            validate_data(self, X, reset=reset, skip_check_array=True)
        else:
            X = validate_data(
                self,
                X,
                reset=reset,
                dtype=[np.float64, np.float32],
                ensure_all_finite="allow-nan",
                ensure_min_samples=MIN_ROWS if reset else 1,
            )
        return pandas.DataFrame(X).set_axis(self._names, axis=1)

    @property
    def _columns(self) -> Columns:
        """The columns that training has learned."""
        return columns_of(self.run_.transform, self.n_features_in_)

    @property
    def _names(self) -> list[str]:
        return [*getattr(self, "feature_names_in_", [f"x{i}" for i in range(self.n_features_in_)])]

    def _match_form(self, X: object, frame: pandas.DataFrame) -> UserData:
        """``frame`` in the form of ``X``, an array or a DataFrame, with columns that training left out filled in."""
        frame = frame.fillna(self.most_frequent_)
        return frame.set_axis(X.columns, axis=1) if isinstance(X, pandas.DataFrame) else frame.to_numpy()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class ScoreImputer(OneToOneFeatureMixin, TransformerMixin, TableEstimator):
    """Impute missing values from their distribution given the other values in the row.

    A missing number becomes the mean of ``n_draws`` draws.  Text, and columns of two values, get the most frequent
    draw.  Columns that training leaves out (constant, nearly empty, or text with mostly different values) are filled
    with their most frequent value; empty columns stay empty.

    ``steps``: training steps.
    ``minutes``: a time budget for training, instead of ``steps``.
    ``n_draws``: draws for each row with missing values.  More draws give better means, and take longer in proportion.
    ``sample_posterior``: fill in a single draw instead, which preserves the spread of the values.
    ``unseen``: what to do with values that training has not seen.  "missing" imputes unseen categories, "error" rejects
    them; see ``TableRun.impute``.
    ``settings``: other training settings.
    ``random_state``: the seed of training and draws.  A fitted estimator returns the same values for the same table,
    but those of a row also depend on the other rows with gaps.
    ``verbose``: whether to print the messages of training.

    Attributes: ``run_``, the run, whose ``impute`` also returns intervals; ``n_features_in_``, ``feature_names_in_``;
    ``seed_``; ``most_frequent_``, the values of columns that training left out.

    >>> import numpy as np
    >>> from ncsn.sklearn import ScoreImputer
    >>> X = np.random.default_rng(0).normal([[1.0, 2.0, 3.0]], 0.1, (100, 3))
    >>> imputer = ScoreImputer(steps=5, random_state=0).fit(X)
    >>> imputer.transform([[1.0, 2.0, np.nan]]).round()
    array([[1., 2., 3.]])
    """

    def __init__(
        self,
        *,
        steps: int = 200,
        minutes: float | None = None,
        n_draws: int = 20,
        sample_posterior: bool = False,
        unseen: Unseen = "missing",
        settings: TrainSettings | None = None,
        random_state: RandomState = None,
        verbose: bool = False,
    ) -> None:
        self.steps = steps
        self.minutes = minutes
        self.n_draws = n_draws
        self.sample_posterior = sample_posterior
        self.unseen = unseen
        self.settings = settings
        self.random_state = random_state
        self.verbose = verbose

    def transform(self, X: object) -> UserData:
        """The completed rows, as an array or a DataFrame like ``X``; observed values are unchanged."""
        if self.sample_posterior:
            return self.draws(X, 1)[0]
        return self._match_form(X, self._impute(X, self.n_draws).frame())

    def draws(self, X: object, m: int) -> list[UserData]:
        """``m`` completed copies of the rows with independent draws, for multiple imputation.

        Analyse each copy, and pool the results by Rubin's rules.
        """
        return [self._match_form(X, frame) for frame in self._impute(X, m).frames()]

    def _impute(self, X: object, m: int) -> ImputedTable:
        frame = self._frame(X)
        with quieter(logging.WARNING) if not self.verbose else nullcontext():
            imputed = self.run_.impute(frame, m, seed=self.seed_, unseen=self.unseen)
        assert isinstance(imputed, ImputedTable)  # as for every DataFrame
        return imputed

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class ScoreDensity(DensityMixin, TableEstimator):
    """Log densities of rows, with the methods of ``KernelDensity``, and new rows.

    For text and other discrete values, the density is a probability, and for whole numbers nearly so.  Columns that
    training leaves out (constant, nearly empty, or text with mostly different values) don't contribute.

    ``steps``: training steps.
    ``minutes``: a time budget for training, instead of ``steps``.
    ``tolerance``: the tolerance of each solver step, see ``Run.log_prob``; larger is faster.
    ``unseen``: what to do with values that training has not seen: "skip" gives them the density −∞, "error" rejects
    them, and "missing" rejects unseen categories like missing values.
    ``settings``: other training settings.
    ``random_state``: the seed of training.
    ``verbose``: whether to print the messages of training.

    Attributes: those of ``ScoreImputer``.

    >>> import numpy as np
    >>> from ncsn.sklearn import ScoreDensity
    >>> density = ScoreDensity(steps=5, random_state=0).fit(np.random.default_rng(0).standard_normal((100, 2)))
    >>> density.sample(3, random_state=0).shape
    (3, 2)
    """

    def __init__(
        self,
        *,
        steps: int = 200,
        minutes: float | None = None,
        tolerance: float = 1e-4,
        unseen: Unseen = "skip",
        settings: TrainSettings | None = None,
        random_state: RandomState = None,
        verbose: bool = False,
    ) -> None:
        self.steps = steps
        self.minutes = minutes
        self.tolerance = tolerance
        self.unseen = unseen
        self.settings = settings
        self.random_state = random_state
        self.verbose = verbose

    def score_samples(self, X: object) -> Float64[np.ndarray, "n"]:
        """The log density of each row in nats; for rows with unseen values see ``unseen``.

        Raises ValueError for rows with missing values.
        """
        check_unseen(self.unseen)
        x = numbers_of(self._frame(X), self._columns, self.unseen)
        if x.isnan().any():
            raise ValueError("X contains NaN; only complete rows have a density")
        density = x.new_full((len(x),), -np.inf)
        possible = self._columns.possible(x).all(1)
        if possible.any():
            density[possible] = self.run_.log_prob(x[possible], tolerance=self.tolerance)
        return density.numpy()

    def score(self, X: object, y: object = None) -> float:
        """The mean log density of rows in nats, as ``GaussianMixture.score`` returns it."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: RandomState = None) -> UserData:
        """New rows without missing values, in the form of the training data.

        Columns that training left out have their most frequent value.
        """
        check_is_fitted(self)
        with quieter(logging.ERROR) if not self.verbose else nullcontext():
            seed = int(check_random_state(random_state).randint(2**31 - 1))
            frame = self.run_.sample(n_samples, complete=True, seed=seed)
        frame = frame.assign(**self.most_frequent_).reindex(columns=self._names)
        if self._empty is None:
            return frame.to_numpy()
        return frame.set_axis(self._empty.columns, axis=1).astype(self._empty.dtypes)
