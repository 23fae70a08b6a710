"""Build the compiled core, or the pure package; everything else is in pyproject.toml.

    FAKTORY_NO_EXTENSIONS=1        build the pure package
    FAKTORY_REQUIRE_EXTENSIONS=1   fail if the core cannot be built
    neither                        build the core if possible, else the pure package

A build without the core makes a wheel for every platform, and deletes the core of an earlier build.
A Cython error in the .pyx always fails the build: it is a bug of ours, not a missing compiler. The
generated C goes to the build folder.
"""

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext as _build_ext
from setuptools.command.build_py import build_py as _build_py
from setuptools.errors import CCompilerError, ExecError, PlatformError, SetupError


def switched_on(name):
    return os.environ.get(name, "").strip().lower() not in ("", "0", "false")


def say(text):
    print(f"faktory-worker: {text}", file=sys.stderr, flush=True)


class build_py(_build_py):
    def run(self):
        super().run()
        if not self.distribution.has_ext_modules():
            say("FAKTORY_NO_EXTENSIONS is set: this is the pure Python package.")
        if self.editable_mode:
            # A core of an earlier build would be imported even if this build makes none; build_ext,
            # which runs next, replaces it.
            suffix = sysconfig.get_config_var("EXT_SUFFIX")
            for name in ("_proto", "_exchange"):
                Path(self.get_package_dir("faktory"), name + suffix).unlink(missing_ok=True)


class build_ext(_build_ext):
    def finalize_options(self):
        super().finalize_options()
        self.cython_c_in_temp = True

    def run(self):
        inplace = self.inplace
        for extension in self.extensions:
            for self.inplace in {False, inplace}:
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
        self.inplace = inplace
        try:
            if importlib.util.find_spec("Cython") is None:
                raise PlatformError("Cython is not installed")
            super().run()
        except (CCompilerError, ExecError, PlatformError) as error:
            failure = f"the compiled core cannot be built ({reason(error)})"
            if switched_on("FAKTORY_REQUIRE_EXTENSIONS"):
                raise SetupError(
                    f"faktory-worker: {failure}, and FAKTORY_REQUIRE_EXTENSIONS is set."
                ) from None
            self.inplace = inplace
            self.become_pure()
            say(f"{failure}: this is the pure Python package.")
        else:
            say("the compiled core is built.")

    def build_extension(self, extension):
        try:
            super().build_extension(extension)
        except Exception as error:
            if type(error).__module__ == "Cython.Compiler.Errors":
                raise SetupError(
                    f"faktory-worker: Cython cannot compile {extension.sources[0]}: see above."
                ) from None
            raise

    def become_pure(self):
        self.extensions = self.distribution.ext_modules = []
        # bdist_wheel decided before the build whether the wheel is for one platform.
        bdist_wheel = self.distribution.get_command_obj("bdist_wheel", create=False)
        if bdist_wheel is not None:
            bdist_wheel.root_is_pure = True


def reason(error):
    """Return the cause of a build error, without the compiler's thirty flags."""
    cause = error
    while cause is not None:
        if isinstance(cause, subprocess.CalledProcessError):
            return f"{cause.cmd[0]} failed with exit code {cause.returncode}"
        cause = cause.__context__
    return str(error).rstrip(".")


def extensions():
    if not switched_on("FAKTORY_NO_EXTENSIONS"):
        parts = [path for kind in ("*.h", "*.pxd") for path in Path("faktory").glob(kind)]
        core = Extension(
            "faktory._proto",
            ["faktory/_proto.pyx"],
            include_dirs=["faktory"],
            depends=sorted(map(str, parts)),
        )
        if sys.platform == "win32":  # no socket blocks for a moment there, see client/waiting.py
            return [core]
        return [core, Extension("faktory._exchange", ["faktory/_exchange.pyx"])]
    if switched_on("FAKTORY_REQUIRE_EXTENSIONS"):
        sys.exit(
            "faktory-worker: FAKTORY_NO_EXTENSIONS and FAKTORY_REQUIRE_EXTENSIONS are both set. "
            "Unset one of them."
        )
    return []


if __name__ == "__main__":
    setup(ext_modules=extensions(), cmdclass={"build_ext": build_ext, "build_py": build_py})
