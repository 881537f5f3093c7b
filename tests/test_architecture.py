"""Each room imports only from rooms above it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from where import ELSEWHERE

from jfedsl.algorithms.registry import ALGORITHMS

PACKAGE = Path(__file__).parents[1] / "jfedsl"
ROOMS = [
    "errors", "terminal", "keys", "per_client", "files", "nn", "models", "data", "compression",
    "pruning", "wireless", "sharding", "engine", "steps", "algorithms", "theory", "config",
    "run", "planner", "studies", "plots", "commands",
]  # fmt: skip


def imported(path: Path) -> set[str]:
    """Rooms of the package that a file imports from."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "jfedsl":
            names = [f"jfedsl.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        rooms |= {n.split(".")[1] for n in names if n.startswith("jfedsl.")}
    return rooms - {"__version__"}


def test_every_room_is_listed():
    names = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert names - {"__init__", "__main__"} == set(ROOMS)


def test_rooms_import_only_from_above():
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        allowed = set(ROOMS[: ROOMS.index(room) + 1])
        assert imported(path) <= allowed, f"{path} imports {imported(path) - allowed}"


def test_only_the_builders_see_the_config():
    below = ROOMS[: ROOMS.index("config")]
    for room in below:
        for path in [*PACKAGE.glob(f"{room}.py"), *PACKAGE.glob(f"{room}/*.py")]:
            assert "config" not in imported(path), path


def test_a_run_begins_without_libraries_that_only_its_end_or_others_need():
    """Importing them takes longer than all that the package itself imports."""
    late = {
        "matplotlib", "PIL", "rich.progress", "sklearn", "scipy", "tensorboardX",
        "tensorflow_datasets", "torch", "wandb",
    }  # fmt: skip
    begin = (
        "import sys, jfedsl.run.training; from jfedsl.data.datasets import load; load('digits', '')"
    )
    command = [sys.executable, "-c", f"{begin}; print(*({late} & set(sys.modules)))"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_files_stay_short():
    assert all(len(p.read_text().splitlines()) <= 300 for p in PACKAGE.rglob("*.py"))


def test_every_module_has_a_test_of_its_name_or_says_where_it_is_tested():
    tests = Path(__file__).parent
    modules = {p.relative_to(PACKAGE).with_suffix("") for p in PACKAGE.rglob("*.py")}
    named = {m for m in modules if (tests / m.parent / f"test_{m.name}.py").exists()}
    others = {str(m) for m in modules - named if m.name not in ("__init__", "__main__")}
    assert others == set(ELSEWHERE)
    assert all((tests / f"{place}.py").exists() for place in ELSEWHERE.values())


def test_no_room_asks_which_algorithm_a_run_has():
    names = "|".join(f'"{name}"' for name in ALGORITHMS)
    asks = re.compile(rf"\.algorithm (==|!=|in|not in) |{names}")
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "algorithms":
            lines = [line for line in path.read_text().splitlines() if asks.search(line)]
            assert [line for line in lines if "in ALGORITHMS" not in line] == [], path
