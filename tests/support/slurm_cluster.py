"""A local Slurm cluster of two nodes with two fake GPUs each, for tests (needs root)."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.helpers import PATIENCE

COMMANDS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
CONF = """
ClusterName=fsbench
SlurmctldHost={host}(127.0.0.1)
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/slurm
CredType=auth/slurm
AuthInfo=use_client_ids
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
SlurmctldPort={ports[0]}
SlurmdTimeout=6
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
ReturnToService=2
MpiDefault=none
GresTypes=gpu
MailProg=/bin/true
KillWait=5
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=2000 Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=2000 Gres=gpu:2
PartitionName=debug Nodes=n[1-2] Default=YES MaxTime=60 State=UP
"""


def missing() -> str:
    """Reason why no cluster can run here; empty if it can."""
    absent = [name for name in COMMANDS if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    return "" if os.geteuid() == 0 else "needs root"


class SlurmCluster:
    """A cluster started by the constructor; `environment` holds variables for Slurm's commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._start(folder)
        except BaseException:
            self.stop()
            raise

    def _start(self, folder: Path) -> None:
        for name in ("state", "spool", "log", "dev"):
            (folder / name).mkdir(parents=True)
        key = folder / "slurm.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        for number in range(2):
            # Slurm requires a character device; this one is /dev/null.
            os.mknod(folder / "dev" / f"gpu{number}", 0o20600, os.makedev(1, 3))
        host = socket.gethostname().partition(".")[0]
        conf = CONF.format(host=host, folder=folder, ports=_free_ports(3))
        (folder / "slurm.conf").write_text(conf)
        (folder / "gres.conf").write_text(f"NodeName=n[1-2] Name=gpu File={folder}/dev/gpu[0-1]\n")
        (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        self.environment = {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "SLURM_SACK_KEY": str(key),
        }
        self._run("slurmctld", "-c")
        for node in ("n1", "n2"):
            self._run("slurmd", "-c", "-N", node)
        end = time.monotonic() + PATIENCE
        while self.ask("sinfo", "-h", "-t", "idle", "-o", "%D").strip() != "2":
            assert time.monotonic() < end, self._logs()
            time.sleep(0.3)

    def _run(self, *command: str) -> None:
        subprocess.run(command, env=os.environ | self.environment, check=True, timeout=PATIENCE)

    def ask(self, *command: str) -> str:
        """Run a Slurm command and return its output."""
        environment = os.environ | self.environment
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
        ).stdout

    def kill_node(self, node: str) -> None:
        """Kill a node's daemon and every process that it started, as a power cut would."""
        import psutil

        daemon = psutil.Process(int((self.folder / f"slurmd.{node}.pid").read_text()))
        _kill([daemon, *daemon.children(recursive=True)])
        _kill(self._steps(node))

    def _steps(self, node: str = "") -> list[Any]:
        """The processes of a node, or of all: steps leave the process tree of their daemon."""
        import psutil

        conf, found = self.environment["SLURM_CONF"], []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                mine = process.environ()
                ours = mine.get("SLURM_CONF") == conf and process.pid != os.getpid()
                if ours and node in ("", mine.get("SLURMD_NODENAME")):
                    found.append(process)
        return found

    @classmethod
    def somewhere(cls) -> SlurmCluster:
        """Start in a folder with a short path, as sockets need; retry if a port was lost."""
        for tries in range(3):
            try:
                return cls(Path(tempfile.mkdtemp(prefix="slurm-")) / "c")
            except AssertionError:
                if tries == 2:
                    raise
        raise AssertionError

    def stop(self) -> None:
        """Cancel all jobs, stop the daemons and remove the folder."""
        import psutil

        self.ask("scancel", "--user=root")
        daemons = []
        for name in ("slurmd.n1", "slurmd.n2", "slurmctld"):
            with suppress(OSError, ValueError, psutil.NoSuchProcess):
                daemons.append(psutil.Process(int((self.folder / f"{name}.pid").read_text())))
        for daemon in daemons:
            with suppress(psutil.NoSuchProcess):
                daemon.terminate()
        # They write their state when they stop; one whose steps hang does not end by itself.
        _, alive = psutil.wait_procs(daemons, timeout=5)
        _kill([*alive, *self._steps()])
        psutil.wait_procs(alive, timeout=5)
        shutil.rmtree(self.folder.parent, ignore_errors=True)

    def _logs(self) -> str:
        texts = [path.read_text()[-1500:] for path in (self.folder / "log").glob("*.log")]
        return "\n".join(texts)


def _kill(processes: Iterable[Any]) -> None:
    import psutil

    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
