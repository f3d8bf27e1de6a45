"""mobile/web: what its own tests compare with, its build, and its gallery file in Python."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from keras_featx.extractors import read_model
from keras_featx.gallery_file import read_gallery

WEB = ROOT / "mobile" / "web"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# npm's words for a registry that does not answer.
OFFLINE = re.compile(r"ENOTFOUND|ECONNREFUSED|ECONNRESET|ETIMEDOUT|EAI_AGAIN|ENETUNREACH|network")


def missing():
    """Why it cannot be built and looked at here, if it cannot."""
    for name in ("node", "npm"):
        if shutil.which(name) is None:
            return f"{name} is not installed"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < (20, 19):
        return f"Node is older than 20.19: {version.strip()}"
    browser = os.environ.get("CHROMIUM_PATH")
    if browser is None and not any(map(shutil.which, BROWSERS)):
        return f"none of {', '.join(BROWSERS)} is installed"
    return ""


def commands():
    """Those of the README, apart where they do different things."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", (WEB / "README.md").read_text(), re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder like a clone, with this folder copied."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "keras_featx").symlink_to(ROOT / "keras_featx")
    left_out = shutil.ignore_patterns("node_modules", "dist", "out")
    shutil.copytree(WEB, folder / "mobile" / "web", ignore=left_out)
    return folder


def run(command, folder, **env):
    return subprocess.run(
        command, shell=True, cwd=folder, env={**os.environ, **env}, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_it_is_built_passes_its_tests_and_exports_what_python_reads(clone):
    install, *others = commands()[0].split(" && npm ")[1:]
    assert (install, others) == ("ci", ["run build", "test"])
    web = clone / "mobile" / "web"
    done = run("npm ci", web, npm_config_fetch_retries="1", npm_config_fetch_timeout="20000")
    if done.returncode and OFFLINE.search(done.stderr):
        pytest.skip(f"npm's registry does not answer: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    for command in others:
        done = run(f"npm {command}", web)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert "# fail 0" in done.stdout and "# skipped 0" in done.stdout
    exported = read_gallery(web / "tests" / "out" / "export.kfg")
    shipped, imported = read_gallery(WEB / "public" / "emoji.kfg"), read_gallery(data("int8.kfg"))
    assert exported.fingerprint == shipped.fingerprint
    assert exported.threshold == 0.75
    names = [exported.identities[label] for label in exported.labels]
    assert names[:240] == [shipped.identities[label] for label in shipped.labels]
    assert names[240:242] == ["some <b>noise</b> ü", "something odd"]
    assert names[242:] == [imported.identities[label] for label in imported.labels]
    np.testing.assert_array_equal(exported.vectors[:240], shipped.vectors)
    np.testing.assert_array_equal(exported.vectors[242:], imported.vectors)
    np.testing.assert_allclose(np.linalg.norm(exported.vectors, axis=1), 1, atol=1e-3)


def data(name):
    return WEB / "tests" / "data" / name


def test_the_gallery_that_comes_with_it_is_of_its_model(clone):
    model = read_model(WEB / "public" / "model.tflite")
    shipped = read_gallery(WEB / "public" / "emoji.kfg")
    assert shipped.fingerprint == model.fingerprint
    command = commands()[1].replace("keras-featx", f"{sys.executable} -m keras_featx.cli", 1)
    done = run(command, clone, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    again = read_gallery(clone / "mobile" / "web" / "public" / "emoji.kfg")
    assert (again.identities, again.threshold) == (shipped.identities, shipped.threshold)
    np.testing.assert_array_equal(again.labels, shipped.labels)
    np.testing.assert_allclose(again.vectors, shipped.vectors, atol=1e-3)


def test_its_tests_compare_with_what_python_gives_now():
    specification = importlib.util.spec_from_file_location(
        "make_fixtures", WEB / "tests" / "make_fixtures.py"
    )
    make = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(make)
    fixtures = json.loads(data("fixtures.json").read_text())
    now = json.loads(json.dumps({"decoded": make.decoded(), "pixels": make.resized()}))
    assert fixtures["decoded"] == now["decoded"]
    assert fixtures["pixels"] == now["pixels"]
    np.testing.assert_allclose(
        [make.numbers(text) for text in fixtures["embeddings"].values()],
        make.embedded(),
        atol=1e-5,
    )


def test_packages_are_pinned_without_a_host():
    packages = json.loads((WEB / "package.json").read_text())
    for name, version in {**packages["dependencies"], **packages["devDependencies"]}.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), name
    locked = json.loads((WEB / "package-lock.json").read_text())["packages"]
    assert all("resolved" not in entry for entry in locked.values())
    assert all("integrity" in entry for name, entry in locked.items() if name)


def test_what_is_made_is_ignored_by_git():
    made = ["node_modules/x", "dist/index.html", "tests/out/export.kfg"]
    done = subprocess.run(["git", "check-ignore", *made], cwd=WEB, capture_output=True, text=True)
    if done.returncode == 128:
        pytest.skip("this is no clone")
    assert done.stdout.split() == made
