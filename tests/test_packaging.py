"""The wheel: what is in it, and that its commands work in any folder."""

import os
import subprocess
import sys
import zipfile

import pytest

from tests.conftest import ROOT

APPS = ("train", "evaluate", "simulate", "interpret")


@pytest.mark.slow
def test_wheel_has_all_and_works_anywhere(tmp_path):
    """Built from a clean copy, unpacked elsewhere: configs lie inside the package and `--cfg job` finds them."""
    copy = tmp_path / "copy"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(copy)], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(copy)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(site)
    tracked = subprocess.run(["git", "ls-files", "conf"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert {f"lensfind/{name}" for name in tracked.stdout.split()} <= names
    assert "lensfind/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "docs/", "conf/"))]
    entry_points = next(path for path in site.glob("*.dist-info/entry_points.txt")).read_text()
    for app in APPS:
        assert f"lensfind-{app} = lensfind.cli:{app}" in entry_points
    code = "import lensfind.cli as c; assert str(c.CONF).startswith(__import__('os').environ['PYTHONPATH']); c.train()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--cfg", "job", "experiment=ou_vis"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "architecture: ou200" in done.stdout


@pytest.mark.parametrize("app", APPS)
def test_console_scripts_are_installed(app, tmp_path):
    script = os.path.join(os.path.dirname(sys.executable), f"lensfind-{app}")
    done = subprocess.run([script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "data" in done.stdout
