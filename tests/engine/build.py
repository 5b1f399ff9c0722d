"""Make the environment in which a real SGLang-Diffusion worker runs: `python build.py [--device cpu|cuda]`.

It needs nothing but Python and pip. The environment (2.6 GB for a CPU) lies outside the checkout, in
`$XDG_CACHE_HOME/sglang-d-router/engine` or where SGLD_ENGINE_HOME says, under a name that holds a digest of
everything it is made from; `.engine` in the checkout points to it:

    .engine/sglang           runs `sglang` as this device wants it
    .engine/venv             its interpreter and packages
    .engine/models/NAME      tiny pipelines with random weights

It may be interrupted at any time: what is not complete is made anew, and two that build at once take turns.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
INPUTS = HERE / "environment"
LINK = HERE.parents[1] / ".engine"
DEVICES = ("cpu", "cuda")
# folder: kind and seed; SGLang tells the kind of a model by its folder's name
MODELS = {
    "tiny-sd3-medium": ("sd3", 0),
    "other-sd3-medium": ("sd3", 1),
    "tiny-wanpipeline": ("wan", 0),
    "first-lora": ("lora", 1),
    "second-lora": ("lora", 2),
}
UNUSED_S = 30 * 86_400.0  # an environment of other inputs goes when nobody has used it for so long

RUN = """\
#!/bin/sh
# Runs SGLang offline on this environment's device; one thread, since tests start several workers at once.
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 OMP_NUM_THREADS="${{OMP_NUM_THREADS:-1}}" {exports}
exec '{sglang}' "$@"
"""


class BuildFailed(Exception):
    """A step did not succeed; the message says which and why."""


def home() -> Path:
    """Give the folder of all environments."""
    if own := os.environ.get("SGLD_ENGINE_HOME"):
        return Path(own)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "sglang-d-router" / "engine"


def environment(device: str) -> Path:
    """Give the folder of the environment that the inputs, this interpreter and the device ask for."""
    digest = hashlib.sha256(f"{device} {sys.version_info[:2]} {platform.machine()}".encode())
    for path in sorted(path for path in [HERE / "build.py", *INPUTS.rglob("*")] if _is_input(path)):
        digest.update(f"{path.relative_to(HERE)}\n".encode() + path.read_bytes())
    return home() / f"{device}-{digest.hexdigest()[:16]}"


def _is_input(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def is_complete(root: Path) -> bool:
    """Tell whether an environment was made to its end."""
    return (root / "complete").exists()


def build(device: str, make: Callable[[Path, str], None] | None = None) -> Path:
    """Make the environment unless it is there, and give its folder.

    Args:
        make: fills a new, empty folder for a device; None installs the engine.

    Raises:
        BuildFailed: a step failed, or packages cannot be had.
    """
    root = environment(device)
    root.parent.mkdir(parents=True, exist_ok=True)
    with _alone(root.parent / f"{root.name}.lock"):
        if not is_complete(root):
            started_s = time.monotonic()
            shutil.rmtree(root, ignore_errors=True)  # what an interrupted build left
            root.mkdir()
            (make or _install)(root, device)
            (root / "complete").touch()
            _say(f"made {root} in {time.monotonic() - started_s:.0f} s")
    os.utime(root / "complete")
    _remove_unused(root)
    return root


def _install(root: Path, device: str) -> None:
    python = root / "venv" / "bin" / "python"
    pip = _new_interpreter(root / "venv")
    _say(f"installing SGLang-Diffusion for {device} into {root}")
    if device == "cpu":
        _run("the libraries", [*pip, "--requirement", INPUTS / "libraries.txt"])
        _run("the engine", [*pip, "--no-deps", "--requirement", INPUTS / "engine-cpu.txt"])
        packages = Path(_run("the interpreter", [python, "-c", "import sysconfig as s; print(s.get_path('purelib'))"]))
        _quieten_torchvision(packages)
        shutil.copytree(INPUTS / "plugin", packages, dirs_exist_ok=True)
    else:
        _run("the engine", [*pip, "--requirement", INPUTS / "engine-cuda.txt"])
    sglang = root / "sglang"
    exports = "SGLANG_DIFFUSION_PLATFORM_OVERRIDE=cpu" if device == "cpu" else ""
    sglang.write_text(RUN.format(sglang=root / "venv" / "bin" / "sglang", exports=exports), encoding="utf-8")
    sglang.chmod(0o755)
    for name, (kind, seed) in MODELS.items():
        _say(f"making {name}")
        _run(f"the model {name}", [python, INPUTS / "tiny_models.py", kind, root / "models" / name, seed])


def _new_interpreter(venv: Path) -> list[str]:
    """Make a virtual environment; give the command that installs into it."""
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    try:
        _run("the virtual environment", [sys.executable, "-m", "venv", venv])
    except BuildFailed:  # Debian splits ensurepip off: the machine's own pip fills it
        _run("the virtual environment", [sys.executable, "-m", "venv", "--clear", "--without-pip", venv])
        return [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", *quiet]
    return [str(venv / "bin" / "python"), "-m", "pip", "install", *quiet]


def _quieten_torchvision(packages: Path) -> None:
    """Keep torchvision from describing operators that its library for CUDA would have brought.

    The wheel of PyPI is compiled for CUDA; without it `import torchvision` fails at two of these descriptions, though
    nothing here calls the operators.
    """
    path = packages / "torchvision" / "_meta_registrations.py"
    text = path.read_text(encoding="utf-8")
    for name in ("nms", "qnms"):
        describe = f'torch.library.register_fake("torchvision::{name}")'
        text = text.replace(
            f"@{describe}\n", f"@({describe} if torchvision.extension._has_ops() else (lambda function: function))\n"
        )
    path.write_text(text, encoding="utf-8")


def _run(what: str, command: list[object]) -> str:
    """Run a command to its end and give what it printed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, check=False, capture_output=True, stdin=subprocess.DEVNULL, text=True)
    if done.returncode != 0:
        raise BuildFailed(f"{what} failed (status {done.returncode}):\n{(done.stdout + done.stderr)[-4_000:]}")
    return done.stdout.strip()


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends."""
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another build of the same environment")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _remove_unused(used: Path) -> None:
    for other in used.parent.glob("*-*"):
        marker = other / "complete"
        if other != used and marker.exists() and time.time() - marker.stat().st_mtime > UNUSED_S:
            _say(f"removing {other}, which nobody has used for a month")
            shutil.rmtree(other, ignore_errors=True)


def link(root: Path) -> None:
    """Point `.engine` of the checkout to an environment."""
    fresh = LINK.with_name(f"{LINK.name}.{os.getpid()}")
    fresh.symlink_to(root)
    fresh.replace(LINK)


def _say(what: str) -> None:
    sys.stderr.write(f"engine: {what}\n")


def main() -> int:
    """Build, link, and print the folder; give 1 when that failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    try:
        root = build(parser.parse_args().device)
    except BuildFailed as error:
        _say(str(error))
        return 1
    link(root)
    sys.stdout.write(f"{root}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
