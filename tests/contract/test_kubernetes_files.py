"""Kubernetes accepts the files below launch/kubernetes, they fit together, and what pods start is a good command."""

import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from launch_files import LAUNCH, check, documents, launched

from mypt_dist import __version__
from mypt_dist.errors import HUNG
from mypt_dist.launch.command import GRACE_S, LAST_WORDS_S
from mypt_dist.launch.supervision.verdict import LOST, MEANING

FILES = sorted((LAUNCH / "kubernetes").glob("*.yaml"))
DOCUMENTS = {(path.name, document["kind"]): document for path in FILES for document in documents(path)}
CUSTOM = {"JobSet": "jobset", "TrainJob": "trainjob", "TrainingRuntime": "trainjob"}

JOB = DOCUMENTS["job.yaml", "Job"]["spec"]
JOBSET = DOCUMENTS["jobset.yaml", "JobSet"]
RUNTIME = DOCUMENTS["trainjob.yaml", "TrainingRuntime"]
TRAINJOB = DOCUMENTS["trainjob.yaml", "TrainJob"]
SEVERAL = {
    "jobset": JOBSET["spec"],
    "trainjob": RUNTIME["spec"]["template"]["spec"],
}
"""Sets of jobs, for several nodes."""
JOBS = {"job": JOB, **{name: spec["replicatedJobs"][0]["template"]["spec"] for name, spec in SEVERAL.items()}}
PODS = {name: job["template"]["spec"] for name, job in JOBS.items()}
CONTAINERS = {name: pod["containers"][0] for name, pod in PODS.items()}
SERVER = DOCUMENTS["mlflow.yaml", "Deployment"]["spec"]["template"]["spec"]
RUN = json.loads(DOCUMENTS["run.yaml", "ConfigMap"]["data"]["first.json"])


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_kubernetes_accepts_every_file(path: Path, version: str) -> None:
    for document in documents(path):
        if document["kind"] in CUSTOM:
            check(document, CUSTOM[document["kind"]])
        else:
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("name", SEVERAL)
def test_kubernetes_accepts_the_jobs_of_sets(name: str) -> None:
    for replicated in SEVERAL[name]["replicatedJobs"]:
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, **replicated["template"]}
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("document", [JOBSET, TRAINJOB, RUNTIME], ids=lambda document: document["kind"])
def test_the_schemas_refuse_what_is_misspelt(document: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check({**document, "spec": {**document["spec"], "replicas": 2}}, CUSTOM[document["kind"]])


def comparable(name: str) -> dict[str, Any]:
    """A pod without what has to differ between one node and several."""
    pod = json.loads(json.dumps(PODS[name]))
    container = pod["containers"][0]
    for key in ("name", "args", "resources"):
        container.pop(key, None)
    container["env"] = [variable for variable in container["env"] if variable["name"] != "JOBSET_NAME"]
    return pod


@pytest.mark.parametrize("name", SEVERAL)
def test_trainers_are_alike_on_one_node_and_on_several(name: str) -> None:
    assert comparable(name) == comparable("job")
    assert SEVERAL[name]["failurePolicy"] == JOBSET["spec"]["failurePolicy"]


def test_files_name_the_same_image_of_this_version() -> None:
    images = {
        container["image"] for container in (*CONTAINERS.values(), SERVER["containers"][0], TRAINJOB["spec"]["trainer"])
    }
    assert images == {f"registry.example.com/mypt:{__version__}"}
    assert TRAINJOB["spec"]["trainer"]["resourcesPerNode"] == CONTAINERS["jobset"]["resources"]


@pytest.mark.parametrize("pod", [*PODS.values(), SERVER], ids=[*PODS, "mlflow"])
def test_pods_have_no_more_rights_than_they_need(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("name", JOBS)
def test_what_would_end_alike_again_is_not_started_again(name: str) -> None:
    *_, rule = JOBS[name]["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {
        "containerName": CONTAINERS[name]["name"],
        "operator": "In",
        "values": sorted(MEANING.keys() - {LOST, HUNG}),
    }


def test_an_eviction_does_not_count_as_a_failure() -> None:
    assert JOB["podFailurePolicy"]["rules"][0]["action"] == "Ignore"
    assert JOB["podFailurePolicy"]["rules"][0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]


@pytest.mark.parametrize("name", CONTAINERS)
def test_nobody_sets_what_kubeflow_sets(name: str) -> None:
    """It refuses such a TrainJob; elsewhere it would be taken for Kubeflow."""
    names = [variable["name"] for variable in CONTAINERS[name]["env"]]
    assert [variable for variable in names if variable.startswith("PET_")] == []


PLACES: dict[str, tuple[list[str], dict[str, str]]] = {
    "job": (JOB["template"]["spec"]["containers"][0]["args"], {}),
    "jobset": (CONTAINERS["jobset"]["args"], {"JOB_COMPLETION_INDEX": "1", "JOBSET_NAME": JOBSET["metadata"]["name"]}),
    "trainjob": (
        TRAINJOB["spec"]["trainer"]["args"],
        {
            "JOB_COMPLETION_INDEX": "1",
            "PET_NNODES": str(TRAINJOB["spec"]["trainer"]["numNodes"]),
            "PET_NODE_RANK": "1",
            "PET_NPROC_PER_NODE": str(TRAINJOB["spec"]["trainer"]["numProcPerNode"]),
            "PET_MASTER_ADDR": "first-node-0-0.first",
            "PET_MASTER_PORT": "29500",
        },
    ),
}
"""Arguments and environment of the last pod of each, as Kubernetes fills them in."""


@pytest.mark.parametrize("name", PLACES)
def test_what_a_pod_starts_is_a_good_command(name: str, tmp_path: Path) -> None:
    run_file = tmp_path / "first.json"
    run_file.write_text(json.dumps(RUN))
    arguments, environment = PLACES[name]
    filled_in = [re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], text) for text in arguments]
    filled_in[filled_in.index("/config/first.json")] = str(run_file)
    found = launched(filled_in, environment | {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path)
    assert found["environment"]["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == str(GRACE_S - LAST_WORDS_S)
    command = found["command"]
    gpus = CONTAINERS["job"]["resources"]["limits"]["nvidia.com/gpu"]
    nodes = 1 if name == "job" else JOBS["jobset"]["completions"]
    options = dict(zip(command[3:-4:2], command[4:-4:2], strict=True))
    assert options["--num_machines"] == str(nodes)
    assert options["--num_processes"] == str(nodes * gpus)
    if nodes > 1:
        assert options["--machine_rank"] == "1"
        assert options["--main_process_ip"] == "first-node-0-0.first"
        assert JOBS[name].get("completionMode", "Indexed") == "Indexed"


@pytest.mark.parametrize("name", CONTAINERS)
def test_health_is_asked_of_the_run_that_is_trained(name: str) -> None:
    asked = {tuple(CONTAINERS[name][probe]["exec"]["command"]) for probe in ("startupProbe", "livenessProbe")}
    assert asked == {("mypt", "runs", "alive", f"runs/{RUN['name']}")}
    mounts = {mount["mountPath"] for mount in CONTAINERS[name]["volumeMounts"]}
    assert {"/workspace/runs", "/workspace/data", "/workspace/.cache", "/tmp", "/dev/shm", "/config"} == mounts


def test_every_volume_is_one_that_run_yaml_makes() -> None:
    made = {document["metadata"]["name"] for document in documents(LAUNCH / "kubernetes/run.yaml")}
    for pod in PODS.values():
        claims = [
            volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["volumes"]
            if "persistentVolumeClaim" in volume
        ]
        maps = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
        assert {*claims, *maps} == made
        assert {"medium": "Memory", "sizeLimit": "16Gi"} in [volume.get("emptyDir") for volume in pod["volumes"]]


def mlflow_allows(allowed: Sequence[str], host: str) -> bool:
    """By MLflow's own rule, from its file: the package around it starts half a server."""
    package = importlib.util.find_spec("mlflow")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0]) / "server/security_utils.py"
    spec = importlib.util.spec_from_file_location("security_utils", path)
    assert spec is not None
    assert spec.loader is not None
    rules = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rules)
    return bool(rules.is_allowed_host_header(list(allowed), host))


def test_trainers_reach_mlflow_and_strangers_do_not() -> None:
    service = DOCUMENTS["mlflow.yaml", "Service"]
    host = f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    for container in CONTAINERS.values():
        assert {"name": "MLFLOW_TRACKING_URI", "value": f"http://{host}"} in container["env"]
    container = SERVER["containers"][0]
    probes = [container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert all(probe["httpHeaders"] == [{"name": "Host", "value": host}] for probe in probes)
    assert all(probe["path"].startswith("/api/") for probe in probes), "/health would answer strangers"
    allowed = next(v["value"] for v in container["env"] if v["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS").split(",")
    for name in (host, "localhost:5000", "mlflow.research.svc.cluster.local:5000"):
        assert mlflow_allows(allowed, name)
    for name in ("evil.example", "mlflow.evil.example", "mlflow.evil.example:5000"):
        assert not mlflow_allows(allowed, name)


def test_the_example_of_a_secret_holds_none() -> None:
    secret = DOCUMENTS["mlflow-secret.example.yaml", "Secret"]
    assert set(secret["stringData"].values()) == {"REPLACE-ME"}
    for container in CONTAINERS.values():
        assert container["envFrom"] == [{"secretRef": {"name": secret["metadata"]["name"], "optional": True}}]
