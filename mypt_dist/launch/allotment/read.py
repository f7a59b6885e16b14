"""Which scheduler started this process, and what it told."""

from collections.abc import Mapping

from mypt_dist.errors import ConfigError
from mypt_dist.launch.allotment.slurm import FirstName, first_node, slurm
from mypt_dist.launch.allotment.told import Allotment, Told, number, word

RANK_ALREADY = ("RANK", "WORLD_SIZE")


def read_allotment(environ: Mapping[str, str], first: FirstName = first_node) -> Allotment:
    """What the scheduler told. Raises `ConfigError` where a launcher has no place, naming the variables.

    The order matters: SkyPilot may stand on Slurm or Kubernetes, and Kubeflow on an indexed job.
    """
    kubeflow = "PET_NNODES" in environ
    # Kubeflow's older PyTorchJob calls the rank of a node RANK, but has no local ranks.
    if all(name in environ for name in RANK_ALREADY) and not (kubeflow and "LOCAL_RANK" not in environ):
        raise ConfigError(
            f"this process is rank {environ['RANK']} of {environ['WORLD_SIZE']} already ({', '.join(RANK_ALREADY)}): "
            "under torchrun or accelerate launch give mypt train RUNFILE instead of mypt launch; or --plain to start "
            "ranks of its own nevertheless"
        )
    if "SKYPILOT_NODE_RANK" in environ:
        return _skypilot(environ)
    if kubeflow:
        return _kubeflow(environ)
    if "JOB_COMPLETION_INDEX" in environ:
        return Allotment("indexed job", node_rank=number(environ, "JOB_COMPLETION_INDEX"))
    if "SLURM_JOB_ID" in environ:
        return slurm(environ, first)
    # A pod that is alone is told nothing, but is killed after its grace period like any other.
    return Allotment("kubernetes" if "KUBERNETES_SERVICE_HOST" in environ else "plain")


def _kubeflow(environ: Mapping[str, str]) -> Allotment:
    """Kubeflow Trainer tells torchrun's own variables."""
    if ":" in environ["PET_NNODES"]:
        raise ConfigError(
            f"PET_NNODES={environ['PET_NNODES']}: the number of nodes of a run is fixed while it goes on; set one "
            "number (a run resumes on any other)"
        )
    per_node = environ.get("PET_NPROC_PER_NODE", "")
    return Allotment(
        scheduler="kubeflow",
        nodes=number(environ, "PET_NNODES"),
        node_rank=number(environ, "PET_NODE_RANK"),
        # It may also say auto, cpu or gpu, each of which torchrun would understand in its own way.
        ranks_per_node=number(environ, "PET_NPROC_PER_NODE") if per_node.isdecimal() else None,
        address=word(environ, "PET_MASTER_ADDR"),
        port=number(environ, "PET_MASTER_PORT"),
    )


def _skypilot(environ: Mapping[str, str]) -> Allotment:
    addresses = environ.get("SKYPILOT_NODE_IPS", "").split()
    return Allotment(
        scheduler="skypilot",
        nodes=number(environ, "SKYPILOT_NUM_NODES"),
        node_rank=number(environ, "SKYPILOT_NODE_RANK"),
        gpus_per_node=number(environ, "SKYPILOT_NUM_GPUS_PER_NODE"),
        address=Told(addresses[0], "SKYPILOT_NODE_IPS") if addresses else None,
    )
