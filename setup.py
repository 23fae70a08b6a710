"""Build the compiled core, or the pure package; everything else is in pyproject.toml.

    FAKTORY_NO_EXTENSIONS=1        build the pure package
    FAKTORY_REQUIRE_EXTENSIONS=1   fail if the core cannot be built
    neither                        build the core if possible, else the pure package
    FAKTORY_PROJECT_URL=https://...   the repository's address, for the package's page and its links

A build without the core makes a wheel for every platform, and deletes the core of an earlier build.
A Cython error in the .pyx always fails the build: it is a bug of ours, not a missing compiler. The
generated C goes to the build folder.
"""

import email
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from urllib.parse import urljoin, urlsplit

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
        if isinstance(cause, FileNotFoundError):
            return f"no C compiler: {cause.filename} is missing; {remedy('gcc python3-dev')}"
        if isinstance(cause, subprocess.CalledProcessError):
            if not Path(sysconfig.get_path("include"), "Python.h").exists():
                return f"Python.h is missing; {remedy('python3-dev')}"
            return f"{cause.cmd[0]} failed with exit code {cause.returncode}"
        cause = cause.__context__
    return str(error).rstrip(".")


def remedy(packages):
    return f"on Debian and Ubuntu: apt-get install {packages}"


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


def project_url():
    """Return the repository's address, or "" where it is unknown.

    An sdist knows it from its own build: the CI that installs it is somebody else's.
    """
    server, repository = (os.environ.get(f"GITHUB_{n}", "") for n in ("SERVER_URL", "REPOSITORY"))
    url = os.environ.get("FAKTORY_PROJECT_URL", "").strip()
    if not url and Path("PKG-INFO").exists():
        known = email.message_from_bytes(Path("PKG-INFO").read_bytes()).get_all("Project-URL", [])
        url = dict(each.split(", ", 1) for each in known).get("Source", "")
    elif not url and server and repository:
        url = f"{server}/{repository}"
    if url and urlsplit(url).scheme not in ("http", "https"):
        sys.exit(
            f"faktory-worker: FAKTORY_PROJECT_URL is {url!r}, which is not an address. "
            "Write it like https://github.com/OWNER/NAME."
        )
    return url.rstrip("/").removesuffix(".git")


def tag():
    source = Path("faktory/__init__.py").read_text("utf-8")
    return "v" + re.search(r'^__version__ = "(.+)"$', source, re.M)[1]


def project_urls(url):
    if not url:
        return {}
    return {
        "Homepage": url,
        "Documentation": f"{url}/blob/{tag()}/docs/index.md",
        "Source": url,
        "Issues": f"{url}/issues",
        "Changelog": f"{url}/blob/{tag()}/CHANGELOG.md",
    }


PICTURE = re.compile(
    r"!\[[^\]]*\]\((?P<markdown>[^)\s]+)\)"
    r'|<(?:img|source)\b[^>]*?\b(?:src|srcset)="(?P<html>[^"\s]+)"[^>]*>'
)
LINK = re.compile(
    r"(?<!!)\[(?P<text>(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\((?P<markdown>[^)\s]+)\)"
    r'|<a\b[^>]*?\bhref="(?P<html>[^"\s]+)"[^>]*>(?P<inner>.*?)</a>',
    re.S,
)


def long_description(readme, url):
    """Return the README as the package's page shows it, where a relative link leads nowhere.

    Links and pictures get their address in the repository, at the tag of this version. Where the
    repository is unknown, a link becomes its text, and a picture is left out.
    """

    def replaced(found, kind):
        name = "markdown" if found["markdown"] else "html"
        target = found[name]
        if urlsplit(target).scheme:
            return found[0]
        if url:
            address = urljoin(f"{url}/{kind}/{tag()}/README.md", target)
            start, end = (place - found.start() for place in found.span(name))
            return found[0][:start] + address + found[0][end:]
        if kind == "raw":
            return ""
        return found["text"] if name == "markdown" else found["inner"]

    def page(text):
        text = PICTURE.sub(lambda found: replaced(found, "raw"), text)
        return LINK.sub(lambda found: replaced(found, "blob"), text)

    parts = re.split(r"(^```.*?^```$)", readme, flags=re.M | re.S)
    return "".join(each if each.startswith("```") else page(each) for each in parts)


if __name__ == "__main__":
    url = project_url()
    setup(
        ext_modules=extensions(),
        cmdclass={"build_ext": build_ext, "build_py": build_py},
        long_description=long_description(Path("README.md").read_text("utf-8"), url),
        long_description_content_type="text/markdown",
        project_urls=project_urls(url),
    )
