"""Put a finished run into the package, as the model that `ncsn sample NAME` and `ncsn.load(NAME)` find.

python scripts/ship_model.py runs/mnist mnist

Weights are rounded to float16, half their size.  Evaluate what is shipped, not the run: `ncsn evaluate mnist`.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import ncsn

MODELS = Path(__file__).parents[1] / "src" / "ncsn" / "assets" / "models"

if __name__ == "__main__":
    source, folder = Path(sys.argv[1]), MODELS / sys.argv[2]
    run = ncsn.load(source, device="cpu")
    for score in (run.score, run.guide):
        if isinstance(score, ncsn.ScoreModel):
            score.network.half()
    if run.origin is not None:  # without the folder that the data was in
        name = Path(run.origin.dataset).name
        run = replace(run, origin=replace(run.origin, dataset=name), settings=run.settings | {"dataset": name})
    run.save(folder, overwrite=True)
    for path in source.glob("metrics.json*"):
        shutil.copy(path, folder)
    print(f"{folder}: {(folder / 'model.safetensors').stat().st_size / 1e6:.2f} MB")
