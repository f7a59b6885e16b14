"""A Slurm of two nodes on this machine: `slurmctld` at the switch and a `slurmd` on each host, all of its own.

Munge, ports, state and logs are this cluster's alone, so that a Slurm which the machine has is not disturbed. Each node
pretends to have one GPU. Needs root, and Debian's slurm-wlm and munge.
"""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hosts import ADDRESSES, SWITCH_ADDRESS, Host, TwoHosts
from lives import PATIENCE, eventually

KILL_WAIT_S = 60
"""How long a job that is requeued or cancelled may take to save: the cluster's, not the job's."""
START_AGAIN_AFTER_S = 5
"""Slurm starts a requeued job when the credentials of its last start have expired."""

CONF = """\
ClusterName=lab
SlurmctldHost={switch}({switch_address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire={again}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
GresTypes=gpu
KillWait={kill_wait}
OverTimeLimit=0
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
{nodes}
PartitionName=p Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeAddr={address} CPUs={cores} RealMemory=1000 Gres=gpu:1 State=UNKNOWN"


@contextmanager
def two_node_slurm(folder: Path) -> Iterator["Slurm"]:
    """A cluster whose nodes are idle. At the end nothing of it runs any more."""
    with TwoHosts() as two:
        slurm = Slurm(two, folder)
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.close()


class Slurm:
    """The cluster, and its command line."""

    def __init__(self, two: TwoHosts, folder: Path) -> None:
        self.two = two
        self._folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._conf = folder / "slurm.conf"

    def start(self) -> None:
        """Until both nodes can take a job."""
        (self._folder / "state").mkdir()
        self._configure()
        self._start_munge()
        self._start(self.two.switch, "slurmctld", "-D", "-f", str(self._conf))
        for host in self.two.hosts:
            self._start(host, "slurmd", "-D", "-N", host.name, "-f", str(self._conf))
        eventually("both nodes are idle", lambda: self.ask("sinfo", "-h", "-t", "idle", "-o", "%D") == "2", 60)

    def ask(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """What one of Slurm's commands prints. An empty string while the controller does not answer."""
        done = subprocess.run(
            self.two.switch.inside(*command),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "SLURM_CONF": str(self._conf), **(environment or {})},
        )
        return done.stdout.strip()

    def submit(self, *arguments: str, log: Path, environment: Mapping[str, str]) -> "Job":
        """The job that ``sbatch`` makes of ``arguments``."""
        number = self.ask("sbatch", "--parsable", f"--output={log}", *arguments, environment=environment)
        assert number.isdigit(), number
        return Job(self, number, log)

    def close(self) -> None:
        """End all jobs, then the daemons. Whoever is left on the hosts is killed with them."""
        self.ask("scancel", "--full", "--user=root")
        for daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait()

    def _configure(self) -> None:
        nodes = [
            NODE.format(name=host.name, address=address, cores=os.cpu_count())
            for host, address in zip(self.two.hosts, ADDRESSES, strict=True)
        ]
        values = {"switch": self.two.switch.name, "switch_address": SWITCH_ADDRESS, "nodes": "\n".join(nodes)}
        waits = {"kill_wait": KILL_WAIT_S, "again": START_AGAIN_AFTER_S}
        self._conf.write_text(CONF.format(folder=self._folder, **values, **waits))
        (self._folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")

    def _start(self, host: Host, *command: str) -> None:
        log = self._folder / f"{command[0]}.{host.name}.out"
        with log.open("wb") as output:
            self._daemons.append(subprocess.Popen(host.inside(*command), stdout=output, stderr=output))

    def _start_munge(self) -> None:
        munge = self._folder / "munge"
        munge.mkdir()
        (munge / "key").write_bytes(os.urandom(128))
        (munge / "key").chmod(0o600)
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={munge / name}" for option, name in files.items()]
        self._start(self.two.switch, "munged", "--foreground", "--force", *options)
        eventually("munged listens", (munge / "socket").exists, 30)


@dataclass(frozen=True)
class Job:
    """A batch job, and what its tasks and its script said."""

    slurm: Slurm
    number: str
    log: Path

    def told(self) -> dict[str, str]:
        """What ``scontrol`` knows of it."""
        words = self.slurm.ask("scontrol", "show", "job", self.number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def update(self, setting: str) -> None:
        """As an operator does."""
        self.slurm.ask("scontrol", "update", f"JobId={self.number}", setting)

    def wait_for(self, state: str, restarts: int = 0, seconds: float = PATIENCE) -> dict[str, str]:
        """What is told of it in that state, after so many restarts."""
        told: dict[str, str] = {}

        def reached() -> bool:
            told.update(self.told())
            return (told.get("JobState"), told.get("Restarts")) == (state, str(restarts))

        try:
            eventually(f"job {state} after {restarts} restarts", reached, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{told}\n{self.said()}") from None
        return told

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""
