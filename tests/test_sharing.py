import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from standin import TOKEN, Hub, serving

import ncsn
from ncsn import sharing, storage
from ncsn.cli import main as cli
from ncsn.cli.measure import Evaluate
from ncsn.data import Origin
from ncsn.data.reading import Reading
from ncsn.evaluation import Evaluation, Metric
from ncsn.recipe import Recipe
from ncsn.run import Run
from ncsn.samplers import Sampling
from ncsn.sharing import FILES, NEEDED, Place
from ncsn.storage import digest
from ncsn.validation import validated

# The library's own, when it sends a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
RECIPE = Recipe(
    network="UNet",
    arguments={"image_channels": 1, "channels": (8, 8), "blocks": 1, "features": 8, "classes": 2},
    shape=(1, 8, 8),
    sampling=Sampling(sigma_max=5.0, sigma_min=0.01, sampler="dpmpp-sde", levels=5, steps=1, eps=5e-5, guidance=2.0),
    shares={"cats_|<b>": 0.75, "dogs": 0.25},
)
ORIGIN = Origin(
    dataset="/home/ada/pets.zip", folder=None, reading=Reading(size="8"), digest="0123abcd", split=(3000, 400, 400)
)
EVALUATION = Evaluation(
    n=400,
    comparable=False,
    features="classifier",
    dimensions=2,
    digest="ab",
    accuracy=0.9,
    metrics={
        "frechet_distance": Metric(generated=3.25, held_out=0.5, training=0.4, ratio=6.5, ratio_to_training=8.125),
        "confident": Metric(generated=0.8, held_out=0.99, training=0.98),
    },
    classes=("cats_|<b>", "dogs"),
    generated_histogram=[0.5, 0.5],
    held_out_histogram=[0.75, 0.25],
    training_histogram=[0.75, 0.25],
    notes=("features know [two] classes",),
)


def made(seed: int, *, guided: bool = True) -> Run:
    torch.manual_seed(seed)
    score, guide = (RECIPE.build(0.13, 0.31).requires_grad_(False).eval() for _ in range(2))
    for parameter in (*score.parameters(), *guide.parameters()):
        parameter.normal_(std=0.1)
    settings = {"dataset": "/home/ada/pets.zip", "channels": (8, 8)}
    return Run(
        score=score,
        recipe=RECIPE,
        guide=guide if guided else None,
        experiment="images",
        settings=settings,
        origin=ORIGIN,
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a guide and a student, its numbers, and things that are nobody's business."""
    folder = tmp_path / "run"
    given = made(0)
    given.save(folder)
    replace(given, guide=None).save(folder / "student")
    told = {"offered": True, "teacher": digest(given.model.state_dict())}
    storage.write_json(folder / "student" / "metrics.json", told)
    (folder / "checkpoint.pt").write_bytes(b"a pickle")
    (folder / "samples.png").write_bytes(b"a picture")
    storage.write_json(folder / "metrics.json", {"step": 1200, "loss": 0.0625, "bands": [1.0], "made_in": "/home/ada"})
    about = {"source": "/home/ada/run", "run_digest": ncsn.load(folder).digest, "sampler": "dpmpp-sde", "seed": 3}
    about |= {"class": None, "guidance": 2.0, "nfe": 6, "data": "pets"}
    storage.write_json(folder / "evaluation.json", about | EVALUATION.report())
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The stand-in, for a user with a token and an empty cache."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving() as standin:
        point_to(monkeypatch, standin.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        yield standin


def point_to(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def parts(run: Path) -> dict[str, bytes]:
    """What is shared of a run, but for the card."""
    return {name: content for name, content in contents(run).items() if name in FILES}


def one_line(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run ``ncsn`` with arguments that must be refused; returns the line that says why."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main(list(args))
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert TOKEN not in printed.err
    return printed.err


def test_a_run_that_was_pushed_draws_the_same_wherever_it_is_loaded(
    hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["push", str(run), "ada/pets"])
    repo, printed = hub.repos["ada/pets"], capsys.readouterr()
    size = sum(len(content) for name, content in repo.files.items() if name != ".gitattributes")
    sha = repo.refs["main"]
    assert printed.out == f"hf://ada/pets@{sha}: 10 files, {size:,} bytes, private; {hub.endpoint}/ada/pets\n"
    assert TOKEN not in printed.out + printed.err
    assert repo.files.keys() == {".gitattributes", *FILES}
    assert repo.private
    for name in ("model.safetensors", "guide/model.safetensors"):
        assert repo.files[name] == (run / name).read_bytes()

    loaded = ncsn.load("hf://ada/pets", device="cpu")
    assert capsys.readouterr().err == f"hf://ada/pets is commit {sha[:7]}: 10 files, {size:,} bytes, fetched\n"
    here = ncsn.load(run, device="cpu")
    assert (loaded.digest, loaded.experiment) == (here.digest, "images")
    assert torch.equal(loaded.sample(3, seed=1), here.sample(3, seed=1))
    assert loaded.folder is not None
    assert contents(loaded.folder).keys() == set(FILES)


def test_nobodys_folders_are_told(hub: Hub, run: Path) -> None:
    assert b"/home/ada" in (run / "config.json").read_bytes()
    cli.main(["push", str(run), "ada/pets"])
    files = hub.repos["ada/pets"].files
    assert not [name for name, content in files.items() if b"ada/p" in content and name != "README.md"]
    assert not [name for name, content in files.items() if b"home" in content]
    mine, theirs = (
        validated(storage.Config, json.loads(text), "it")
        for text in ((run / "config.json").read_bytes(), files["config.json"])
    )
    assert theirs.data == replace(ORIGIN, dataset="pets.zip")
    assert theirs.settings == mine.settings | {"dataset": "pets.zip"}
    assert theirs.recipe == mine.recipe


def test_a_revision_that_is_there_is_not_asked_for_again(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["push", str(run), "ada/pets"])
    first = hub.repos["ada/pets"].refs["main"]
    digest = ncsn.load("hf://ada/pets").digest
    made(1).save(run, overwrite=True)
    cli.main(["push", str(run), "ada/pets", "--overwrite"])
    second = hub.repos["ada/pets"].refs["main"]
    assert second != first
    hub.asked.clear()
    capsys.readouterr()

    assert ncsn.load("hf://ada/pets").digest == digest
    cache = Path(constants.HF_HUB_CACHE) / "models--ada--pets"
    told = f"hf://ada/pets is commit {first[:7]}, as fetched before; to ask again, delete {cache}\n"
    assert capsys.readouterr().err == told
    assert ncsn.load(Path("hf://ada/pets@main")).digest == digest
    assert capsys.readouterr().err == told
    assert ncsn.load(f"hf://ada/pets@{first}").digest == digest
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "1")  # one of several processes
    assert ncsn.load("hf://ada/pets").digest == digest
    assert capsys.readouterr().err == ""
    assert hub.asked == []

    assert ncsn.load(f"hf://ada/pets@{second}").digest == ncsn.load(run).digest != digest
    assert ncsn.load("hf://ada/pets").digest == digest  # still the branch as it was
    hub.repos["ada/pets"].refs["refs/pr/1"] = second
    assert ncsn.load("hf://ada/pets@refs/pr/1").digest == ncsn.load(run).digest


def test_a_run_that_another_program_has_fetched_without_its_guide_is_fetched(hub: Hub, run: Path) -> None:
    cli.main(["push", str(run), "ada/pets"])
    for name in NEEDED:
        huggingface_hub.hf_hub_download("ada/pets", name)
    assert ncsn.load("hf://ada/pets", device="cpu").digest == ncsn.load(run, device="cpu").digest
    hub.asked.clear()
    ncsn.load("hf://ada/pets", device="cpu")
    assert hub.asked == []


def test_only_parts_of_a_run_are_fetched(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = {
        "model.py": b"import os",
        "guide/weights.pkl": b"pickle",
        "pytorch_model.bin": b"pickle",
        "a.json": b"{}",
    }
    hub.put("ada/pets", parts(run) | foreign)
    ncsn.load("hf://ada/pets")
    not_fetched = "hf://ada/pets: not fetched, for it is no part of a run: a.json, guide/weights.pkl, model.py"
    assert capsys.readouterr().err.startswith(f"{not_fetched} and 1 more\n")
    got = {request.split("/resolve/")[1].split("/", 1)[1] for request in hub.asked if "/resolve/" in request}
    assert got == FILES.keys() - {"README.md"}
    cache = Path(constants.HF_HUB_CACHE)
    assert not [path for path in cache.rglob("*") if path.suffix in (".py", ".pkl", ".bin", ".pt", ".png")]
    assert b"pickle" not in [path.read_bytes() for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("hf://ada/cars", "there is no such model, or none that your token"),
        ("hf://bob/secret", "there is no such model, or none that your token"),
        ("hf://ada/pets@v2", "it has no revision v2"),
        ("hf://ada/large", "model.safetensors has 99,000,000,000 bytes; at most 8,589,934,592 are allowed"),
        ("hf://ada/bert", "hf://ada/bert is no run: it has no model.safetensors, but .gitattributes, config.json"),
        ("hf://ada/empty", "hf://ada/empty is no run: it has no config.json, but .gitattributes"),
        ("hf://ada--x/pets", "Cannot have -- or .. in repo_id"),
        ("hf://ada", "names no model; hf://user/model or hf://user/model@revision is needed"),
        ("hf://ada/pets/guide", "names no model; hf://user/model or"),
        ("hf://ada/pets@", "names no model; hf://user/model or"),
        ("hf://ada/pets@../../x", "names no model; hf://user/model or"),
        ("hf://ada/pets@main\nx", "names no model; hf://user/model or"),
    ],
)
def test_what_cannot_be_fetched_is_said_in_one_line(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str, said: str
) -> None:
    hub.put("ada/pets", parts(run))
    hub.put("ada/bert", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    hub.put("ada/empty", {})
    hub.put("bob/secret", parts(run), private=True)
    if place == "hf://ada/large":
        hub.put("ada/large", parts(run))
        hub.sizes["model.safetensors"] = 99 * 10**9
    if place == "hf://bob/secret":
        monkeypatch.delenv("HF_TOKEN")
    assert said in one_line(capsys, "info", place)
    assert not [request for request in hub.asked if "/resolve/" in request]


def test_without_a_network_one_line(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.put("ada/pets", parts(run))
    ncsn.load("hf://ada/pets")
    hub.broken = "/api/models"
    assert "the stand-in says Broken" in one_line(capsys, "info", "hf://ada/cars")
    with serving() as gone:
        nobody = gone.endpoint
    point_to(monkeypatch, nobody)
    assert re.search(f"^error: hf://ada/cars at {nobody}: .*refused", one_line(capsys, "info", "hf://ada/cars"))
    assert "refused" in one_line(capsys, "push", str(run), "ada/cars")
    ncsn.load("hf://ada/pets")


def test_what_was_fetched_in_part_is_no_run(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.put("ada/pets", parts(run))
    for broken in ("guide/model.safetensors", "[0-9a-f]{40}/model.safetensors", "[0-9a-f]{40}/config.json"):
        hub.broken = broken
        assert "501 " in one_line(capsys, "info", "hf://ada/pets")
    hub.broken = ""
    hub.asked.clear()
    loaded = ncsn.load("hf://ada/pets")
    assert loaded.digest == ncsn.load(run).digest
    assert not [request for request in hub.asked if request.startswith("GET") and request.endswith("metrics.json")]


def test_a_branch_that_moves_meanwhile_is_asked_for_again(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = hub.put("ada/pets", parts(run))
    download = huggingface_hub.hf_hub_download

    def late(model: str, name: str, *, revision: str) -> str:
        if revision == "main":
            monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
            made(1).save(run, overwrite=True)
            repo.commit(parts(run))
        return str(download(model, name, revision=revision))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", late)
    assert "hf://ada/pets has changed while it was fetched; ask again" in one_line(capsys, "info", "hf://ada/pets")
    assert ncsn.load("hf://ada/pets").digest == ncsn.load(run).digest


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", b'{"architectures": ["Bert"]}', "config.json: version is missing"),
        ("config.json", b"[" * 10**5, "config.json cannot be read"),
        ("model.safetensors", b"\x80\x04pickle", "model.safetensors is damaged"),
        ("guide/config.json", b"{}", "guide/config.json: version is missing"),
    ],
)
def test_what_was_fetched_is_validated_as_any_run(
    hub: Hub, run: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, said: str
) -> None:
    repo = hub.put("ada/pets", parts(run) | {name: content})
    with pytest.raises(ValueError, match=said):
        ncsn.load("hf://ada/pets")
    assert re.search(said, one_line(capsys, "info", f"hf://ada/pets@{repo.refs['main']}"))


def test_offline_is_offline(hub: Hub, run: Path, tmp_path: Path) -> None:
    """In a process of its own, by the library's own switches."""
    hub.put("ada/pets", parts(run))
    ncsn.load("hf://ada/pets")
    asked = len(hub.asked)
    program = (
        "import sys; from ncsn.cli import main as cli; "
        "cli.main(['info', 'hf://ada/pets']); cli.main(['info', 'hf://ada/x'])"
    )
    switches = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.endpoint}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment | switches, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert "UNet(" in ended.stdout
    told, refused = ended.stderr.splitlines()
    assert "as fetched before" in told
    assert (
        refused
        == f"error: hf://ada/x at {hub.endpoint}: HF_HUB_OFFLINE is set, and only what is in the cache can be had"
    )
    assert len(hub.asked) == asked


def test_without_the_library_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("huggingface_hub", "huggingface_hub.constants", "huggingface_hub.errors"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "pip install 'ncsn[hub]'" in one_line(capsys, "info", "hf://ada/pets")


def test_a_push_that_is_refused_is_one_line_and_changes_nothing(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hub.put("ada/pets", {"README.md": b"precious", "config.json": b"{}"}, private=True)
    hub.put("ada/open", {})
    before = {name: dict(repo.files) for name, repo in hub.repos.items()}
    it = str(run)
    assert "hf://ada/pets has README.md, config.json already; give --overwrite" in one_line(
        capsys, "push", it, "ada/pets"
    )
    assert "is private; push without --public" in one_line(capsys, "push", it, "ada/pets", "--overwrite", "--public")
    assert "is public; push with --public" in one_line(capsys, "push", it, "ada/open")
    assert "to is 'pets'; user/model is needed" in one_line(capsys, "push", it, "pets")
    assert "to is '../x'; user/model is needed" in one_line(capsys, "push", it, "../x")
    assert "licence is 'My own'; a name like mit" in one_line(capsys, "push", it, "ada/new", "--licence", "My own")
    assert "is no run: it has no config.json" in one_line(capsys, "push", str(tmp_path), "ada/new")
    with monkeypatch.context() as small:
        small.setitem(FILES, "model.safetensors", 10)
        assert re.search("model.safetensors has .* bytes; at most 10 ", one_line(capsys, "push", it, "ada/new"))
    assert {name: repo.files for name, repo in hub.repos.items()} == before


def test_a_push_needs_a_token_which_is_never_told(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert "you have no token; `hf auth login` keeps one, or HF_TOKEN is one" in one_line(
        capsys, "push", str(run), "ada/pets"
    )
    assert hub.asked == []
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    said = one_line(capsys, "push", str(run), "ada/pets")
    assert "the stand-in says Unauthorized" in said
    assert "hf_wrong" not in said
    assert hub.repos == {}
    monkeypatch.delenv("HF_TOKEN")
    Path(constants.HF_TOKEN_PATH).parent.mkdir(exist_ok=True)
    Path(constants.HF_TOKEN_PATH).write_text(TOKEN)
    cli.main(["push", str(run), "ada/pets"])
    assert "config.json" in hub.repos["ada/pets"].files
    assert TOKEN not in "".join(capsys.readouterr())


def test_overwriting_leaves_nothing_of_the_old_run_and_everything_else(hub: Hub, run: Path, tmp_path: Path) -> None:
    repo = hub.put("ada/pets", parts(run) | {"notes.txt": b"mine"}, private=True)
    made(1, guided=False).save(tmp_path / "other")
    cli.main(["push", str(tmp_path / "other"), "ada/pets", "--overwrite"])
    assert repo.files.keys() == {
        ".gitattributes",
        "README.md",
        "config.json",
        "model.safetensors",
        "notes.txt",
    }
    assert ncsn.load("hf://ada/pets").digest == ncsn.load(tmp_path / "other").digest


def test_somebody_elses_push_meanwhile_is_not_lost(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = hub.put("ada/pets", {}, private=True)
    create = huggingface_hub.HfApi.create_commit

    def late(self: Any, *args: Any, **options: Any) -> Any:
        repo.commit({"theirs": b""})
        return create(self, *args, **options)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", late)
    with pytest.raises(ValueError, match="the stand-in says Changed"):
        sharing.send("ada/pets", {"README.md": b"mine"}, public=False, overwrite=False)
    assert repo.files == {"theirs": b""}


def test_to_the_public_only_when_asked(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["push", str(run), "ada/pets", "--public", "--license", "cc-by-4.0"])
    assert ", public; " in capsys.readouterr().out
    assert not hub.repos["ada/pets"].private


def test_the_card_has_numbers_beside_their_floors_data_classes_and_licence(hub: Hub, run: Path) -> None:
    cli.main(["push", str(run), "ada/pets", "--licence", "mit"])
    card = hub.repos["ada/pets"].files["README.md"].decode()
    front = huggingface_hub.ModelCard(card).data.to_dict()
    assert front == {
        "library_name": "ncsn",
        "license": "mit",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["score-matching", "ncsn"],
    }
    lines = card.splitlines()
    assert "# pets" in lines
    code = card.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) == 3
    drawn: dict[str, Any] = {}
    exec(code, drawn)
    assert drawn["x"].shape == (16, 1, 8, 8)
    assert (
        "pets, examples of shape 1 × 8 × 8; 3,000 / 400 / 400 for training, validation, test; "
        "sha256 of the pixels 0123abcd."
    ) in lines
    assert r"cats\_\|\<b\> (75.0%), dogs (25.0%)." in card
    assert (
        "400 samples, too few to be comparable, sampler dpmpp-sde, nfe 6, guidance 2.0, seed 3, beside images of pets, "
        "seen by classifier:"
    ) in lines
    assert r"| frechet\_distance | 3.25 | 0.5 | 0.4 |" in lines
    assert "| confident | 0.8 | 0.99 | 0.98 |" in lines
    assert r"- features know \[two\] classes" in lines
    assert "| step | 1,200 |" in lines
    assert "| loss | 0.0625 |" in lines
    assert "bands" not in card
    assert lines[-1] == "mit"


def test_a_card_claims_nothing_that_was_not_measured(
    hub: Hub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.write_model(run, made(1).model)  # training went on
    cli.main(["push", str(run), "ada/pets"])
    card = hub.repos["ada/pets"].files["README.md"].decode()
    assert "evaluation.json is left out: it is not about the run as it is now" in capsys.readouterr().err
    assert "evaluation.json" not in hub.repos["ada/pets"].files
    assert "## Quality\n\nNot evaluated.\n" in card
    assert "3.25" not in card

    x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    ncsn.fit(x, steps=5).save(tmp_path / "points")
    cli.main(["push", str(tmp_path / "points"), "ada/points"])
    card = hub.repos["ada/points"].files["README.md"].decode()
    for words in ("Not evaluated.", "No numbers are recorded.", "Not recorded, examples of shape 2", "None is given"):
        assert words in card
    assert "license" not in card
    assert "pipeline_tag" not in card


def test_a_broken_evaluation_is_one_line(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = run / "evaluation.json"
    found = json.loads(path.read_text())
    push = ("push", str(run), "ada/pets", "--dry-run", str(tmp_path / "look"))
    cases: list[Any] = [found | {"n": "many"}, found | {"metrics": {"x": {"generated": "1"}}}, found | {"notes": 3}, []]
    for broken in cases:
        path.write_text(json.dumps(broken))
        assert "evaluation.json" in one_line(capsys, *push)
    del found["features"]
    path.write_text(json.dumps(found))
    assert "evaluation.json: features is missing" in one_line(capsys, *push)
    assert not (tmp_path / "look").exists()


def test_a_dry_run_writes_what_would_be_sent_and_sends_nothing(
    hub: Hub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    look = tmp_path / "look"
    cli.main(["push", str(run), "ada/pets", "--dry-run", str(look)])
    printed = capsys.readouterr().out.splitlines()
    assert hub.asked == []
    assert printed[-1] == f"{look}: 10 files, which `ncsn push {run} ada/pets` would send; nothing was sent"
    assert printed[0] == f"{look / 'README.md'}: {(look / 'README.md').stat().st_size:,} bytes"
    assert ncsn.load(look).digest == ncsn.load(run).digest
    cli.main(["push", str(run), "ada/pets"])
    sent = dict(hub.repos["ada/pets"].files)
    del sent[".gitattributes"]
    assert contents(look) == sent
    assert f"{run} exists; --dry-run needs a new folder" in one_line(
        capsys, "push", str(run), "ada/pets", "--dry-run", str(run)
    )


def test_what_is_said_of_a_run_of_the_hub_is_written_here(hub: Hub, run: Path) -> None:
    hub.put("ada/pets", parts(run))
    source = Path("hf://ada/pets")
    assert Evaluate(source=source).folder(ncsn.load(source)) == Path()
    assert Evaluate(source=run, overwrite=True).folder(ncsn.load(run)) == run


def test_a_place_is_written_as_it_is_read() -> None:
    assert str(Place.of("hf://ada/pets")) == "hf://ada/pets"
    assert str(Place.of(Path("hf://ada/pets@v1.0"))) == "hf://ada/pets@v1.0"
    assert Place.of("hf:/ada/pets@refs/pr/1") == Place("ada/pets", "refs/pr/1")
