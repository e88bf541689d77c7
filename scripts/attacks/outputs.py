"""What commands write over: files, links, devices and folders that are there, and links under temporary names."""

import os
from collections.abc import Callable
from pathlib import Path

from attacks.forks import Ended, Limits, forked
from attacks.ground import Ground, complaint, ncsn, used_by_many
from attacks.jobs import status_of
from attacks.options import options_of
from attacks.tally import Attack, Attempt, Failure

COMMANDS = {
    "sample": ("sample RUN -n 2 --levels 2 --device cpu --out", ".npz"),
    "likelihood": ("likelihood RUN -n 1 --probes 1 --device cpu --out", ".json"),
    "inpaint": ("inpaint RUN -n 2 --levels 2 --device cpu --out", ".png"),
    "interpolate": ("interpolate RUN -n 1 --steps 2 --levels 2 --device cpu --out", ".png"),
    "export": ("export RUN", ".onnx"),
}
PRECIOUS = b"precious"


def a_file(out: Path) -> None:
    """Somebody's file."""
    out.write_bytes(PRECIOUS)


def a_link(out: Path) -> None:
    """A link to somebody's file."""
    (out.parent / "other").write_bytes(PRECIOUS)
    out.symlink_to("other")


def a_pipe(out: Path) -> None:
    """A named pipe."""
    os.mkfifo(out)


def a_device(out: Path) -> None:
    """A device; a pipe where this user may make none."""
    try:
        os.mknod(out, 0o020666, os.makedev(1, 3))
    except PermissionError:
        os.mkfifo(out)


def a_folder(out: Path) -> None:
    """A folder with somebody's file."""
    out.mkdir()
    (out / "other").write_bytes(PRECIOUS)


def no_folder(out: Path) -> None:
    """Nothing, not even the folder to write into."""
    out.parent.rmdir()


def temporary_link(out: Path) -> None:
    """A link under the temporary name of version 0.1, to somebody's file."""
    (out.parent / "other").write_bytes(PRECIOUS)
    (out.parent / f".{out.stem}.partial{out.suffix}").symlink_to("other")


THERE: tuple[Callable[[Path], None], ...] = (a_file, a_link, a_pipe, a_device, a_folder, no_folder, temporary_link)
ALLOWED = ("a_file",)  # what --overwrite may replace


def state(folder: Path) -> dict[str, object]:
    """What stands in a folder."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        known = path.lstat()
        regular = path.is_file() and not path.is_symlink()
        found[str(path.relative_to(folder))] = (known.st_mode, path.read_bytes() if regular else known.st_ino)
    return found


def cases() -> list[tuple[str, Callable[[Path], None], bool]]:
    """Every command, on everything, with and without ``--overwrite`` where it has it."""
    return [
        (command, there, overwrite)
        for command in COMMANDS
        for there in THERE
        for overwrite in (False, True)
        if not overwrite or "--overwrite" in [option.name for option in options_of(command)]
    ] + [("evaluate", a_file, False)]


def attempt(ground: Ground, number: int) -> Attempt:
    """Put something where a command writes, and see what becomes of it."""
    command, there, overwrite = cases()[number]
    if command == "evaluate":
        return own_samples(ground, number)
    words, suffix = COMMANDS[command]
    with ground.place("outputs", number) as place:
        (place / "RUN").symlink_to(ground.run)
        folder = place / "folder"
        folder.mkdir()
        out = folder / f"out{suffix}"
        there(out)
        before = state(folder) if folder.exists() else {}
        line = f"{words} folder/out{suffix}" + (" --overwrite" if overwrite else "")
        ended = forked(ncsn(line), place, limits=Limits(wall=120, cpu=60))
        after = state(folder) if folder.exists() else {}
        kinds = judged(there.__name__, overwrite, out.name, ended, before, after)
    said = f"{there.__doc__}\n{status_of(ended)}\nbefore: {before}\nafter: {sorted(after)}"
    return Attempt(
        failures=tuple(Failure(kind=f"{command}: {kind}", command=f"ncsn {line}", said=said) for kind in kinds)
    )


def judged(
    there: str, overwrite: bool, out: str, ended: Ended, before: dict[str, object], after: dict[str, object]
) -> list[str]:
    """What is wrong, in a few words each."""
    kinds = []
    if wrong := complaint(ended, 2):
        kinds.append(wrong)
    replaced = overwrite and there in ALLOWED
    # A link under a temporary name may go, as what a kill has left; what it leads to may not.
    free = {out} if replaced else {f".{Path(out).stem}.partial{Path(out).suffix}"}
    kept = {name: value for name, value in before.items() if name not in free}
    if any(after.get(name) != value for name, value in kept.items()):
        kinds.append(f"{there.replace('_', ' ')} is replaced")
    refused = there != "temporary_link" and not replaced
    if ended.status == 0 and refused:
        kinds.append(f"{there.replace('_', ' ')} is not refused")
    if ended.status == 2 and not refused:
        kinds.append(f"{there.replace('_', ' ')} is refused")
    if there == "no_folder" and ended.cpu > 1.5 and ended.status == 2 and "evaluations" in ended.out:
        kinds.append("refused only after the work")
    return kinds


def own_samples(ground: Ground, number: int) -> Attempt:
    """``ncsn evaluate RUN`` where the user keeps samples.npz in the run's folder."""
    import shutil

    with ground.place("outputs", number) as place:
        shutil.copytree(ground.run, place / "RUN")
        (place / "RUN" / "samples.npz").write_bytes(PRECIOUS)
        ended = forked(ncsn("evaluate RUN -n 100 --levels 2 --device cpu"), place)
        kept = (place / "RUN" / "samples.npz").read_bytes() == PRECIOUS
    kinds = [] if kept else ["evaluate: the user's samples.npz is replaced"]
    if wrong := complaint(ended, 2):
        kinds.append(f"evaluate: {wrong}")
    return Attempt(
        failures=tuple(
            Failure(kind=kind, command="ncsn evaluate RUN, with a file RUN/samples.npz", said=status_of(ended))
            for kind in kinds
        )
    )


ATTACK = Attack(
    promise="Nothing that is there is replaced unless asked, and then only regular files; links are not followed",
    how="every command that writes, where a file, a link, a pipe, a device, a folder or no folder is, with and without "
    "`--overwrite`, and links under temporary names",
    tries=60,
    share=0.01,
    attempt=attempt,
    prepare=used_by_many,
    most=lambda _: len(cases()),
)
