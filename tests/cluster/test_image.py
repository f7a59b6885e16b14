"""The image of the real Dockerfile trains as a user without rights, on a root that is read-only, without a network."""

import json
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from compose import EXAMPLE, services
from containers import WRITABLE, Container, Options, workspace
from hosts import NEEDS_ROOT, Host
from images import REVISION, Builder, Image
from mlflow_server import eventually
from postgres import PASSWORD, postgres

from mypt_dist.checkpoint import open_checkpoint
from mypt_dist.tracking.journal import read_events

pytestmark = [NEEDS_ROOT, pytest.mark.cluster, pytest.mark.timeout(1800)]

SMALL = ["model.n_layer=1", "model.n_head=2", "model.n_embd=32", "model.context=32", "train.batch_size=8"]
BRIEF = [*SMALL, "train.steps=4", "train.eval_every=4", "train.eval_windows=4"]
ENDLESS = [*SMALL, "train.steps=1000000", "train.log_every=10", "watch.heartbeat_s=0.5", "trackers=[]"]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    builder = Builder(tmp_path_factory.mktemp("image"))
    try:
        builder.debian("localhost/debian")
        yield builder.build("localhost/mypt", "localhost/debian")
    finally:
        builder.close()


@pytest.fixture
def lonely() -> Iterator[Host]:
    """A network with nobody on it."""
    with closing(Host("container")) as host:
        yield host


@pytest.fixture(scope="module")
def trained(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The /workspace of a container in which `quickstart` came to its end."""
    folder = workspace(tmp_path_factory.mktemp("workspace"))
    options, log = Options(volumes={"/workspace": folder}), folder.with_suffix(".log")
    with closing(Host("container")) as host, Container(image, host, ["quickstart", *BRIEF], options, log) as container:
        assert container.wait() == 0, container.output
        assert "mypt generate --run /workspace/runs/quickstart/run" in container.output
    return folder


def test_the_image_says_what_it_was_built_from_and_has_no_secrets(image: Image) -> None:
    assert image.config["Labels"]["org.opencontainers.image.revision"] == REVISION
    assert image.config["User"] == "1000:0"
    assert [name for name in image.environment if name.startswith("PIP_")] == []
    left = [path for name in ("src", "wheels", "root/.cache") for path in (image.root / name).rglob("*")]
    assert left == []


def test_the_image_has_compiled_what_it_cannot_compile_later(image: Image) -> None:
    (packages,) = image.root.glob("opt/mypt/lib/python3*/site-packages")
    for name in ("torch/nn", "mlflow/store", "mypt_dist/run"):
        compiled = {path.name.split(".")[0] for path in (packages / name).glob("__pycache__/*.pyc")}
        assert compiled == {path.stem for path in (packages / name).glob("*.py")}


def test_the_image_has_places_that_anybody_can_write(image: Image) -> None:
    folders = [image.root / "workspace" / name for name in WRITABLE]
    assert [folder.stat().st_mode & 0o7777 for folder in folders] == [0o1777] * len(folders)


def test_quickstart_trains_on_a_read_only_root_without_a_network(trained: Path) -> None:
    run = trained / "runs/quickstart/run"
    manifest = open_checkpoint(run).manifest
    assert (manifest.step, manifest.code["commit"], manifest.code["dirty"]) == (4, REVISION, False)
    assert (run / "run.json").stat().st_uid == 1000
    (start,) = [event for event in read_events(run) if event["kind"] == "start"]
    assert start["tags"]["mlflow.source.git.commit"] == REVISION


@pytest.mark.parametrize(
    ("start", "ranks"),
    [(["train"], 1), (["launch", "cpu", "--supervise"], 2)],
    ids=["one-process", "two-supervised-ranks"],
)
def test_under_any_uid_it_is_healthy_while_it_trains_and_saves_when_it_is_stopped(
    start: list[str], ranks: int, image: Image, trained: Path, lonely: Host, tmp_path: Path
) -> None:
    folder = workspace(tmp_path)
    volumes = {"/workspace": folder, "/workspace/data": trained / "runs/quickstart/data"}
    command = [*start, "runs/quickstart", "data.path=data", "out=runs/mine", *ENDLESS]
    with Container(image, lonely, command, Options(volumes, user="4242:4242"), tmp_path / "log") as container:
        eventually("the health check passes", container.healthy)
        heartbeat = folder / "runs/mine/heartbeat.json"
        eventually("it trains", lambda: json.loads(heartbeat.read_text())["step"] > 0)
        container.pause()
        told = json.loads(heartbeat.read_text())
        heartbeat.write_text(json.dumps({**told, "time": time.time() - 121}))
        assert not container.healthy()
        container.pause(resume=True)
        eventually("it beats again", container.healthy)
        assert container.stop() == 143, container.output
    assert "stopped by SIGTERM" in container.output
    found = open_checkpoint(folder / "runs/mine")
    assert (found.manifest.world_size, found.folder.stat().st_uid) == (ranks, 4242)
    assert read_events(folder / "runs/mine")[-1]["status"] == "preempted"


def test_a_volume_of_somebody_else_is_named(image: Image, lonely: Host, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    options = Options(volumes={"/workspace": tmp_path})
    command = ["data", "prepare", "stdlib", "--tokenizer", "byte", "--out", "data/mine"]
    with Container(image, lonely, command, options, tmp_path / "log") as container:
        assert container.wait() == 2
    told = [line.split(" cannot be written")[0] for line in container.output.splitlines() if "cannot" in line]
    assert told == ["mypt: /workspace/data", "mypt: /workspace/.cache", "mypt: data/mine"]


def test_other_programs_of_the_image_are_executed(image: Image, lonely: Host, tmp_path: Path) -> None:
    options = Options(volumes={"/workspace": workspace(tmp_path)})
    for command, said in ((["g++", "--version"], "Free Software"), (["shell", "-c", "id -u"], "1000"), ([], "Usage")):
        with Container(image, lonely, command, options, tmp_path / "log") as container:
            assert container.wait() == 0
        assert said in container.output


def test_the_services_of_compose_work_together(image: Image, trained: Path, lonely: Host, tmp_path: Path) -> None:
    server, trainer = services(tmp_path, "mlflow", "trainer-cpu")
    # The dataset is prepared already.
    prepared = trainer.options.volumes["/workspace/runs"] / "quickstart"
    shutil.copytree(trained / "runs/quickstart/data", prepared / "data")
    prepared.chmod(0o1777)
    with Container(image, lonely, server.command, server.options, tmp_path / "server.log") as mlflow:
        eventually("MLflow's health check passes", lambda: mlflow.healthy(server.health), 300)
        answers = {name: _asked_as(mlflow, name) for name in ("mlflow:5000", "localhost:5000", "evil.example")}
        assert answers == {"mlflow:5000": 200, "localhost:5000": 200, "evil.example": 403}
        with Container(image, lonely, [*trainer.command, *BRIEF], trainer.options, tmp_path / "log") as container:
            assert container.wait() == 0, container.output
        # On a machine that has no time, MLflow may not have got everything before the trainer ended.
        late = ["runs", "sync", "runs/quickstart/run"]
        with Container(image, lonely, late, trainer.options, tmp_path / "late.log") as container:
            container.wait()
        mlflow.stop()
    with closing(sqlite3.connect(server.options.volumes["/workspace"] / "mlflow.db")) as database:
        assert database.execute("SELECT name, status FROM runs").fetchall() == [("quickstart", "FINISHED")]


def test_mlflow_keeps_its_numbers_in_postgresql_as_the_example_of_settings_says(
    image: Image, lonely: Host, tmp_path: Path
) -> None:
    (server,) = services(tmp_path, "mlflow")
    (line,) = re.findall(r"^# (MLFLOW_BACKEND_STORE_URI)=(.*)$", EXAMPLE.read_text(), re.MULTILINE)
    environment = {**server.options.environment, line[0]: line[1].replace("PASSWORD", PASSWORD)}
    options = replace(server.options, environment=environment)
    with postgres(lonely), Container(image, lonely, server.command, options, tmp_path / "log") as mlflow:
        eventually("MLflow's health check passes", lambda: mlflow.healthy(server.health), 300)
    assert not (options.volumes["/workspace"] / "mlflow.db").exists()


def _asked_as(container: Container, host: str) -> int:
    """The status of MLflow's API when it is called by that name."""
    code = (
        "import sys, urllib.error, urllib.request as u\n"
        "url = 'http://127.0.0.1:5000/api/2.0/mlflow/experiments/search?max_results=1'\n"
        "try:\n    print(u.urlopen(u.Request(url, headers={'Host': sys.argv[1]})).status)\n"
        "except urllib.error.HTTPError as error:\n    print(error.code)"
    )
    return int(container.execute("python", "-c", code, host).stdout)
