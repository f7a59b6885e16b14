"""The files below launch/skypilot say what SkyPilot documents, and what they run is a good command.

SkyPilot itself is not installed: it would bring a hundred packages.
"""

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from launch_files import LAUNCH, check, documents, launched

FILES = {path.stem: documents(path)[0] for path in sorted((LAUNCH / "skypilot").glob("*.yaml"))}
TASKS = {name: content for name, content in FILES.items() if "run" in content}


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_what_skypilot_documents(name: str) -> None:
    check(FILES[name], "skypilot")
    with pytest.raises(jsonschema.ValidationError):
        check({**FILES[name], "nodes": 2}, "skypilot")


@pytest.mark.parametrize("name", TASKS)
def test_the_scripts_are_bash(name: str) -> None:
    for script in (TASKS[name]["setup"], TASKS[name]["run"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("name", TASKS)
def test_the_setup_is_the_same_everywhere(name: str) -> None:
    for key in ("setup", "workdir", "file_mounts"):
        assert TASKS[name][key] == TASKS["train"][key]
    assert set(TASKS[name].get("volumes", {}).values()) <= {FILES["volume"]["name"]}


@pytest.mark.parametrize("name", TASKS)
def test_what_a_node_runs_is_a_good_command(name: str, tmp_path: Path) -> None:
    task: dict[str, Any] = TASKS[name]
    run_file = {"extends": "150m", "name": "first", "data": {"path": "data"}, "train": {"steps": 10, "batch_size": 512}}
    (tmp_path / "first.json").write_text(json.dumps(run_file))
    nodes, gpus = task.get("num_nodes", 1), int(task["resources"]["accelerators"].partition(":")[2])
    environment = {
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NODE_RANK": str(nodes - 1),
        "SKYPILOT_NUM_NODES": str(nodes),
        "SKYPILOT_NUM_GPUS_PER_NODE": str(gpus),
    }
    script = task["run"].replace("\\\n", "")
    for variable, value in task.get("envs", {}).items():
        script = script.replace(f"${variable}", value)
    program, *arguments = shlex.split(script)
    assert program == ".venv/bin/mypt"
    command = launched(arguments, environment, tmp_path)["command"]
    assert command[command.index("--num_processes") + 1] == str(nodes * gpus)
    assert command[command.index("--num_machines") + 1] == str(nodes)


def test_a_spot_node_leaves_nothing_behind_that_is_not_in_the_bucket() -> None:
    assert TASKS["spot"]["resources"]["use_spot"]
    assert "checkpoints.mirror=$BUCKET" in TASKS["spot"]["run"]
