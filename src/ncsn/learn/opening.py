"""Opening a training for ``ncsn train``: the data, the plan, and a record in the run's folder."""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

from ncsn.kinds.kind import Dataset, Origin, absolute
from ncsn.kinds.load import load_dataset
from ncsn.kinds.reading import short_name
from ncsn.learn import rules
from ncsn.learn.fit import Plan, plan, training_lock
from ncsn.learn.record import Record
from ncsn.learn.settings import ResolvedSettings, TrainSettings
from ncsn.machine import distributed
from ncsn.machine.messages import log
from ncsn.run import read_config, storable_settings
from ncsn.run.folder import check_folder, has_run


def open_run(given: TrainSettings, *, numbered: bool = False) -> tuple[Dataset, Plan, Record]:
    """The data to train on, the plan for it, and a record of the training in the run's folder.

    With ``--resume`` the settings are the run's own.  The budget begins before the data is read.  Every process reads
    it, the leading one first, because it may have to be downloaded.
    ``numbered``: if the default folder is taken, the record uses the next one, such as runs/mnist-2 (``claim_next``),
    instead of refusing; not with ``--out``, ``--overwrite``, ``--resume`` or several processes.
    Raises ValueError if the data cannot be read, does not suit the settings, or differs from the run's or from the
    leading process's; and if the folder holds another run.
    """
    began, group = time.perf_counter(), distributed.join()
    first = b"" if group.is_main else group.broadcast()
    folder = given.job.out or Path("runs") / short_name(given.dataset)
    numbered = numbered and group.size == 1 and not (given.job.out or given.job.overwrite or given.job.resume)
    if group.is_main:
        if not numbered:
            check_folder(folder, overwrite=given.job.overwrite, resume=given.job.resume)
        if given.dataset != "mnist" and Path(given.dataset).resolve() in (folder / "run").resolve().parents:
            raise ValueError(f"{folder} is inside the data, so its pictures would become data; choose another --out")
    settings: TrainSettings = given
    if given.job.resume and has_run(folder):
        data, settings, origin = reopen(given, folder)
    else:
        if given.job.resume:
            log.info(f"{folder} holds no run to resume; starting a new one")
        data = load_dataset(given.dataset, reading=given.reading)
        origin = Origin.of(given.dataset, given.reading, data)
    with training_lock():
        planned = plan(data, settings)
    here = json.dumps([storable_settings(asdict(planned.settings)), origin.digest]).encode()
    if here != (group.broadcast(here) if group.is_main else first):
        raise ValueError(f"process {group.rank} has other data or settings than process 0; they must be the same")
    record = Record(folder=folder, numbered=numbered, job=given.job, origin=origin, group=group, began=began)
    return data, planned, record


def reopen(given: TrainSettings, folder: Path) -> tuple[Dataset, ResolvedSettings, Origin]:
    """The data of a resumed run, its settings, and where the data is now."""
    config, where = read_config(folder), folder / "config.json"
    settings, origin = rules.recall(given, config.settings, f"{where}: settings"), config.data
    if origin is None:
        raise ValueError(f"{where} does not say which data the run was trained on")
    if given.dataset not in (settings.dataset, TrainSettings.dataset):  # the default does not say where the data is
        origin = replace(origin, dataset=absolute(given.dataset))
    return origin.load(), settings, origin
