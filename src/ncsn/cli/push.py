"""``ncsn push``."""

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ncsn.files import atomic


@dataclass(frozen=True, kw_only=True)
class Push:
    """Share a run on Hugging Face's hub: its configuration, weights and numbers, with a model card that is written.

    Privately, unless --public says otherwise.  Your token is the library's affair: `hf auth login`, or HF_TOKEN.
    """

    run: tyro.conf.Positional[Path]
    """The run's folder, such as runs/mnist; or mnist, the model that comes with the package."""
    to: tyro.conf.Positional[str]
    """Where: user/model.  Then it is hf://user/model to every command, and to ncsn.load."""
    licence: Annotated[str | None, tyro.conf.arg(aliases=["--license"])] = None
    """The model's licence, by the hub's name for it: mit, apache-2.0, cc-by-4.0, other, …  By default none is given."""
    public: bool = False
    """Everybody may see and load it; by default only you may."""
    overwrite: bool = False
    """Replace a model that is there already, by a further commit."""
    dry_run: Path | None = None
    """Send nothing, and write what would be sent, the card too, into this new folder: to look at, or to load."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        from ncsn.sharing import MODEL

        if not re.fullmatch(MODEL, self.to, re.ASCII):
            raise ValueError(f"to is {self.to!r:.80}; user/model is needed")
        if self.licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,49}", self.licence):
            raise ValueError(f"licence is {self.licence!r:.80}; a name like mit, cc-by-4.0 or other is needed")

    def __call__(self) -> None:
        """Read the run, and send it."""
        if self.dry_run is not None and (self.dry_run.exists() or self.dry_run.is_symlink()):
            raise ValueError(f"{self.dry_run} exists; --dry-run needs a new folder")
        import ncsn
        from ncsn import sharing, storage
        from ncsn.card import shared

        folder = storage.find(self.run)
        files = shared(ncsn.load(folder, device="cpu"), folder, self.to, licence=self.licence)
        if "evaluation.json" not in files and (folder / "evaluation.json").exists():
            print(f"{folder / 'evaluation.json'} is left out: it is not about the run as it is now", file=sys.stderr)
        if self.dry_run is None:
            print(sharing.send(self.to, files, public=self.public, overwrite=self.overwrite))
            return
        for name, content in files.items():
            path = self.dry_run / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic(path) as temporary:
                if isinstance(content, bytes):
                    temporary.write_bytes(content)
                else:
                    shutil.copyfile(content, temporary)
            print(f"{path}: {sharing.size_of(content):,} bytes")
        print(
            f"{self.dry_run}: {len(files)} files, which `ncsn push {self.run} {self.to}` would send; nothing was sent"
        )
