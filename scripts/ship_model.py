"""Put a finished run into the package, as the model that `ncsn sample NAME` and `ncsn.load(NAME)` find.

python scripts/ship_model.py runs/mnist mnist

Weights are rounded to float16, half their size.  Evaluate what is shipped, not the run: `ncsn evaluate mnist`.
"""

import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file

from ncsn.storage import sealed


def ship(run: Path, folder: Path) -> None:
    """Write what sampling needs of ``run`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = load_file(run / "model.safetensors")
    half = {name: weight.half() if name.startswith("network.") else weight for name, weight in weights.items()}
    (folder / "model.safetensors").write_bytes(sealed(half))
    for name in ("config.json", "metrics.json", "metrics.jsonl"):
        if (run / name).is_file():
            shutil.copy(run / name, folder)
    print(f"{folder}: {(folder / 'model.safetensors').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    run, models = Path(sys.argv[1]), Path(__file__).parents[1] / "src" / "ncsn" / "assets" / "models"
    ship(run, models / sys.argv[2])
    if (run / "guide").is_dir():
        ship(run / "guide", models / sys.argv[2] / "guide")
