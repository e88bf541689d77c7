"""Samplers: what turns a score into samples.

Every sampler is an iterator of ``Step(sigma, x)``, so that progress bars, animations and early stopping belong to the
caller: ``*path, last = annealed_langevin(score, x, sigmas, ...)``, and ``last.x`` are the samples.  With ``denoise``
the last state is the posterior mean.  ``methods.METHODS`` is the one table of their names and defaults.
"""
