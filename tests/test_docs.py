"""Every code block of the README and of docs/, and every docstring example, runs.

Blocks run in order in a folder that looks like a clone. Left out are only installation (it went
before) and the test command itself.
"""

import contextlib
import doctest
import importlib
import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest
from conftest import ROOT

import keras_featx

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "mobile" / "README.md", ROOT / "mobile" / "python" / "README.md"]
# tests/test_mobile_web.py runs the blocks of mobile/web.
LINKED = PAGES + [ROOT / "mobile" / name / "README.md" for name in ("cpp", "android", "web")]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"python", "bash", "yaml", "text", "json"}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clone")
    for name in ("configs", "tools", "keras_featx", "mobile"):
        (folder / name).symlink_to(ROOT / name)
    yield folder
    for file in folder.glob("output/*.pid"):  # of servers, should a page not get to their end
        number = int(file.read_text())
        with contextlib.suppress(OSError):
            if b"keras_featx.cli" in Path(f"/proc/{number}/cmdline").read_bytes():
                os.kill(number, signal.SIGKILL)


def shell_lines(block):
    """The commands of a block, with continued lines joined and installation left out."""
    for line in block.replace("\\\n", " ").splitlines():
        line = re.sub(r"^pip install [^&]*(&& )?", "", line.strip())
        if line and not line.startswith(("#", "pytest")):
            yield line


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: "/".join(p.parts[-2:]))
def test_every_block_runs(page, clone):
    blocks = BLOCK.findall(page.read_text())
    assert {language for language, _ in blocks} <= LANGUAGES
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}",
    }
    code = []
    for language, block in blocks:
        if language == "bash":
            for line in shell_lines(block):
                line = re.sub(r"^keras-featx ", "python -m keras_featx.cli ", line)
                done = subprocess.run(
                    line, shell=True, cwd=clone, env=env, capture_output=True, text=True
                )
                assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
        elif language == "python":
            code.append(block)
    if code:
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(code)],
            cwd=clone, env=env, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_the_quickstart_of_the_readme_beats_the_floors(clone):
    """Looks at what the README's first command left behind, in the test above."""
    folder = clone / "quickstart"
    result = json.loads((folder / "quickstart.json").read_text())
    assert {"recall@1", "recall@5", "map", "queries", "seconds"} <= result.keys()
    assert result["queries"] == 200
    # Pixels find about 62 %, a linear metric on borrowed features 66.5 %.
    floor = result["baselines"]["pixels"]
    assert 0.55 < floor < 0.68
    assert result["recall@1"] > max(floor + 0.02, 0.665)
    assert result["baselines"]["random network"] < floor
    assert result["largest_difference"] < 1e-4
    for name in ("learning_curves.png", "neighbours.png"):
        image = matplotlib.image.imread(folder / name)
        assert image.shape[1] > 1000 and image.std() > 0.1
    for name in ("config.yaml", "train.log", "metrics.csv", "latest", "best_model", "inference"):
        assert (folder / name).exists()


def modules():
    for info in pkgutil.walk_packages(keras_featx.__path__, "keras_featx."):
        yield info.name


@pytest.mark.parametrize("name", [n for n in modules() if n != "keras_featx.training"])
def test_docstring_examples_run(name, clone, monkeypatch):
    monkeypatch.chdir(clone)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.slow
def test_the_example_of_train_runs(clone, monkeypatch):
    monkeypatch.chdir(clone)
    result = doctest.testmod(importlib.import_module("keras_featx.training"))
    assert result.failed == 0 and result.attempted > 0


def test_the_readme_is_short_and_starts_with_code():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 200
    assert any(line.startswith("```") for line in lines[:30])


@pytest.mark.parametrize("page", LINKED, ids=lambda p: "/".join(p.parts[-2:]))
def test_links_lead_somewhere(page):
    prose = BLOCK.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", prose):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
