"""What a run runs from: read off the files of git, without git."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from lossguard.probes.surroundings import commit_of, versions


def git(folder: Path, *words: str) -> str:
    """The tool's own word."""
    settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", *settings, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One commit, and a script in a folder of its own."""
    git(tmp_path, "init", "-q")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text("pass\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_the_commit_is_the_one_git_names(repository: Path) -> None:
    assert commit_of(repository / "src" / "train.py") == git(repository, "rev-parse", "HEAD")


def test_packed_and_detached_heads_and_worktrees_are_read(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    git(repository, "pack-refs", "--all")
    assert commit_of(repository / "src" / "train.py") == commit
    git(repository, "worktree", "add", "-q", "-b", "other", "tree")
    assert commit_of(repository / "tree" / "src" / "train.py") == commit
    git(repository, "checkout", "-q", "--detach")
    assert commit_of(repository / "src" / "train.py") == commit


def test_where_there_is_no_repository_there_is_no_commit(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert commit_of(tmp_path / "train.py") == ""
    (tmp_path / ".git" / "HEAD").write_text("nonsense")
    assert commit_of(tmp_path / "train.py") == ""


def test_no_device_is_woken_for_its_name() -> None:
    assert versions()["torch"] == str(torch.__version__)
    assert not torch.cuda.is_initialized()
