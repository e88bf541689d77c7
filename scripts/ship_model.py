"""Put a finished run into the package, as the model that `ncsn sample NAME` and `ncsn.load(NAME)` find.

python scripts/ship_model.py runs/mnist mnist

Weights are rounded to float16, half their size.  Evaluate what is shipped, not the run: `ncsn evaluate mnist`.
"""

import shutil
import sys
from pathlib import Path

from ncsn.storage import read_tensors, sealed


def ship(run: Path, folder: Path) -> None:
    """Write what sampling needs of ``run`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = read_tensors(run / "model.safetensors")
    half = {k: w.half() if k.startswith("network.") else w for k, w in weights.items()}
    (folder / "model.safetensors").write_bytes(sealed(half))
    shutil.copy(run / "config.json", folder)
    for numbers in ("metrics.json", "metrics.jsonl"):
        if (run / numbers).is_file():
            shutil.copy(run / numbers, folder)
    largest = max(float((w - half[k].float()).abs().max()) for k, w in weights.items())
    size = (folder / "model.safetensors").stat().st_size
    print(f"{folder}: {size / 1e6:.2f} MB, rounded by at most {largest:.1e}")


if __name__ == "__main__":
    run, name = Path(sys.argv[1]), sys.argv[2]
    models = Path(__file__).parent.parent / "src" / "ncsn" / "assets" / "models"
    ship(run, models / name)
    if (run / "guide").is_dir():
        ship(run / "guide", models / name / "guide")
