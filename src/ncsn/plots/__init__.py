"""Every figure and animation; the only room that knows matplotlib."""

from ncsn.plots.images import evolution, evolution_animation, image_grid, tile, visible
from ncsn.plots.pages import evaluation_page, loss_curves, posterior_page
from ncsn.plots.planar import plane, scatter_panels, score_field, trajectories

__all__ = [
    "evaluation_page",
    "evolution",
    "evolution_animation",
    "image_grid",
    "loss_curves",
    "plane",
    "posterior_page",
    "scatter_panels",
    "score_field",
    "tile",
    "trajectories",
    "visible",
]
