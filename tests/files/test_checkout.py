"""The commit of a package: in a checkout with and without changes, and outside of one."""

import subprocess
from pathlib import Path

from jfedsl.files.checkout import commit_of


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    command = ["git", *who, "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_checkout_has_a_commit_and_says_if_the_package_was_changed(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "module.py").write_text("x = 1\n")
    assert commit_of(package) is None, "no checkout"
    git(tmp_path, "init", "-q")
    assert commit_of(package) is None, "installed into a checkout of something else"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "notes.txt").write_text("outside of the package")
    assert commit_of(package) == head
    (package / "module.py").write_text("x = 2\n")
    assert commit_of(package) == f"{head} dirty"
    git(tmp_path, "checkout", "-q", ".")
    (package / "new.py").write_text("")
    assert commit_of(package) == f"{head} dirty"
