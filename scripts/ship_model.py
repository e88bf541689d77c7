"""Put a finished run into the package, as the model that `ncsn sample NAME` and `ncsn.load(NAME)` find.

python scripts/ship_model.py runs/mnist mnist

Weights are rounded to float16, half their size.  Evaluate what is shipped, not the run: `ncsn evaluate mnist`.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ncsn import runs

if __name__ == "__main__":
    run, name = Path(sys.argv[1]), sys.argv[2]
    folder = Path(__file__).parent.parent / "src" / "ncsn" / "assets" / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    weights = load_file(run / "model.safetensors")
    half = {k: w.half() if k.startswith("network.") else w for k, w in weights.items()}
    save_file(half, folder / "model.safetensors")
    config = runs.read_config(run)
    config["settings"]["out"] = f"runs/{name}"  # where it was on one machine is nobody else's concern
    runs.write_json(folder / "config.json", config)
    runs.write_json(folder / "metrics.json", runs.read_results(run))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    largest = max(float((w - half[k].float()).abs().max()) for k, w in weights.items() if w.dtype == torch.float32)
    size = (folder / "model.safetensors").stat().st_size
    print(f"{folder}: {size / 1e6:.2f} MB, rounded by at most {largest:.1e}")
