"""Builds the C++ extension of the native backend; everything else is in pyproject.toml.

Without a compiler, or where the build fails, the install still succeeds: recdrop then runs its
reference backend, and ``python -m recdrop`` says so.
"""

import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = "src/recdrop/csrc"


class BuildNative(build_ext):
    """`build_ext` that turns every failure into a warning."""

    def run(self) -> None:
        """Build all."""
        try:
            super().run()
        except Exception as error:
            self._warn(error)

    def build_extension(self, ext: Extension) -> None:
        """Build one."""
        try:
            super().build_extension(ext)
        except Exception as error:
            self._warn(error)

    def copy_extensions_to_source(self) -> None:
        """Copy it next to the Python files of an editable install."""
        try:
            super().copy_extensions_to_source()
        except Exception as error:
            self._warn(error)

    def get_ext_filename(self, fullname: str) -> str:
        """Plain ``_native.so``: the library has no tie to a version of Python."""
        return fullname.replace(".", "/") + ".so"

    @staticmethod
    def _warn(error: Exception) -> None:
        print(f"warning: recdrop is installed without its native backend: {error}", file=sys.stderr)


def native() -> Extension:
    """The extension, on LibTorch's stable ABI: it serves every torch from 2.13 on."""
    from torch.utils.cpp_extension import include_paths, library_paths

    return Extension(
        "recdrop._native",
        sources=[
            f"{SOURCES}/{name}.cpp"
            for name in ("ops", "kernels_portable", "kernels_avx2", "kernels_avx512")
        ],
        depends=[
            f"{SOURCES}/{name}"
            for name in (
                "cells.h",
                "gemm.h",
                "kernels.h",
                "kernels.inc",
                "loss.h",
                "philox.h",
                "recurrence.h",
                "simd.h",
                "system.h",
            )
        ],
        include_dirs=include_paths(),
        library_dirs=library_paths(),
        libraries=["torch", "torch_cpu", "c10"],
        define_macros=[("TORCH_TARGET_VERSION", "0x020d000000000000")],
        extra_compile_args=["-std=c++20", "-O3", "-g0", "-fvisibility=hidden", "-Wno-psabi"],
        extra_link_args=["-Wl,-s"] if sys.platform == "linux" else [],
        language="c++",
    )


def extensions() -> list[Extension]:
    """What can be built here: nothing without torch, nor on Windows (no vector types in MSVC)."""
    if sys.platform == "win32":
        return []
    try:
        return [native()]
    except ImportError as error:
        BuildNative._warn(error)
        return []


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildNative})
