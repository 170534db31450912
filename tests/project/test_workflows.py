"""The workflows pin what they run, have few rights, and release in a fixed order."""

import re
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / ".github/workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned(path):
    """
    Each action is pinned to a commit, and a comment names its version.

    Our own workflow is that of this commit.
    """
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used
    for action in used:
        assert re.fullmatch(
            r"[\w/.-]+@[0-9a-f]{40} # v?\d+(\.\d+)+|\./\.github/workflows/\w+\.yml", action
        ), action


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_read_and_no_more(path):
    """A job that needs more rights declares them itself."""
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert all(job.get("timeout-minutes", "uses" in job) for job in workflow["jobs"].values())


def test_a_release_is_tested_pushed_once_and_approved_by_a_person():
    """The steps of a release in their order. No tag of an image ever moves."""
    jobs = yaml.safe_load((FOLDER / "release.yml").read_text())["jobs"]
    assert [(name, job.get("needs")) for name, job in jobs.items()] == [
        ("version", None), ("ci", "version"), ("image", "ci"), ("deploy", "image")
    ]  # fmt: skip
    runs = [step["run"] for step in jobs["image"]["steps"] if "run" in step]
    assert runs[:2] == ["make image", "make image-test"]
    assert "docker push" in runs[2]
    assert "latest" not in "".join(runs)
    assert jobs["deploy"]["environment"] == "production"
    assert jobs["deploy"]["steps"][-1]["run"] == 'flyctl deploy --image "$IMAGE" --ha=false'
