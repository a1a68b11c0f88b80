"""Compile and install llama-cpp-python so that llama.cpp runs at its best on this processor.

    python -m whimbrel.bench.peer_build            install, unless a build that works is there
    python -m whimbrel.bench.peer_build --print    only say how it would be compiled

Its default build takes all instructions that this processor has (GGML_NATIVE), which is what the peer should get. With
AMX there is a catch: the AMX intrinsics of GCC (seen in 12.2) describe memory wrongly to the compiler, and llama.cpp
dies of SIGSEGV in its first matrix product. ``amx_gcc.h`` puts that right, by compiler options alone; the library's
sources stay as they are. Leaving AMX out would be the simpler way, and a third of its speed in prefill lost.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from whimbrel.errors import WhimbrelError

REQUIREMENT = "llama-cpp-python==0.3.36"
HEADER = Path(__file__).with_name("amx_gcc.h")
CHECK = (
    "import llama_cpp as l; l.llama_backend_init(); "
    f"assert l.__version__ == '{REQUIREMENT.rpartition('=')[2]}'; print(l.llama_print_system_info().decode())"
)


def cmake_arguments(cpu_flags: frozenset[str]) -> list[str]:
    """CMake options for a processor with these flags (names as in Linux's /proc/cpuinfo)."""
    arguments = ["-DGGML_NATIVE=ON", "-DLLAVA_BUILD=OFF"]  # no images here, and a third less to compile
    if "amx_tile" in cpu_flags:
        arguments += [f"-DCMAKE_{language}_FLAGS=-include {HEADER}" for language in ("C", "CXX")]
    return arguments


def cpu_flags() -> frozenset[str]:
    """Instruction sets of this processor as Linux names them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def installed() -> str | None:
    """Features of the build that is installed here, or None if there is none of the right version that loads."""
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def works(features: str, flags: frozenset[str]) -> bool:
    """True if a build with these features uses AMX where the processor has it."""
    return "amx_int8" not in flags or "AMX_INT8 = 1" in features


def install(arguments: list[str]) -> None:
    """Compile with these options and install into this Python; takes minutes. Raises ``WhimbrelError``.

    pip's own wheel cache is left out: it does not know about compiler options.
    """
    command = [sys.executable, "-m", "pip", "install", "--no-binary", "llama-cpp-python", "--no-cache-dir"]
    command += ["--force-reinstall", "--no-deps", REQUIREMENT]
    # scikit-build-core splits SKBUILD_CMAKE_ARGS at semicolons, so that an option may contain spaces.
    environment = {**os.environ, "SKBUILD_CMAKE_ARGS": ";".join(arguments)}
    dependencies = [sys.executable, "-m", "pip", "install", "--quiet", "diskcache", "typing-extensions"]
    for step in (dependencies, command):
        if subprocess.run(step, env=environment, check=False).returncode != 0:
            raise WhimbrelError(f"llama-cpp-python could not be installed; see pip's words above ({' '.join(step)})")


def main(words: list[str]) -> None:
    """The command of this module's docstring."""
    flags = cpu_flags()
    arguments = cmake_arguments(flags)
    if "--print" in words:
        print(f"SKBUILD_CMAKE_ARGS='{';'.join(arguments)}'")
        return
    features = installed()
    if features is None or not works(features, flags):
        if shutil.which("cmake") is None and shutil.which("c++") is None:
            raise WhimbrelError("compiling llama.cpp needs a C++ compiler; install one (Debian: apt install g++)")
        install(arguments)
        features = installed()
    print(features or "llama-cpp-python was installed and does not load")


if __name__ == "__main__":
    main(sys.argv[1:])
