"""Programs kept on the disk, and what XLA says of them."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.lru_cache import LRUCache
from jax.experimental.compilation_cache import compilation_cache

from jfedsl.run.processes import program_cache
from jfedsl.run.processes.compilation import compiled, keep_programs

PROGRAM = """
import sys
import jax
import numpy as np
jax.numpy.zeros(3).sum()  # JAX has looked for a folder in vain
from jfedsl.run.processes import program_cache
from jfedsl.run.processes.compilation import compiled, keep_programs
keep_programs(sys.argv[1])
x = np.ones((9, 9), np.float32)
print(compiled(jax.jit(lambda x: jax.numpy.sin(x @ x).sum()), x)(x))
"""


@pytest.fixture(autouse=True)
def programs_of_the_suite() -> Iterator[None]:
    """JAX goes on with the folder of the suite, also if a test chose another one."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    keep_programs("")
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def run(folder: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, folder], capture_output=True, text=True, timeout=120,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_programs_are_found_again_without_noise(tmp_path: Path) -> None:
    outputs = []
    for _ in range(2):
        done = run(str(tmp_path / "cache"))
        assert done.returncode == 0 and done.stderr == ""
        outputs.append((done.stdout, sorted((tmp_path / "cache").rglob("*-cache"))))
    assert outputs[0] == outputs[1] and outputs[0][1]
    (processor,) = (tmp_path / "cache").iterdir()
    assert all(path.parent == processor for path in outputs[0][1])


def test_empty_is_off_and_a_folder_chosen_stays(tmp_path: Path) -> None:
    assert run("").returncode == 0
    chosen = tmp_path / "before"
    settings = {
        "COMPILATION_CACHE_DIR": str(chosen),
        "PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    environment = {f"JAX_{name}": value for name, value in settings.items()}
    assert run(str(tmp_path / "cache"), **environment).returncode == 0
    assert chosen.is_dir() and not (tmp_path / "cache").exists()


def test_the_last_call_decides_and_a_folder_set_elsewhere_stays(tmp_path: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", None)
    for name in ("one", "two"):
        keep_programs(str(tmp_path / name))
        assert Path(jax.config.jax_compilation_cache_dir).parent == tmp_path / name
    keep_programs("")
    assert jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    for name in ("", "three"):
        keep_programs(name and str(tmp_path / name))
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "theirs")


def test_a_damaged_program_is_replaced_and_one_that_cannot_be_read_now_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JAX would report it, and compile it again, in every run to come."""

    def call() -> None:
        jax.clear_caches()
        x = np.ones(3, np.float32)
        assert np.all(np.asarray(jax.jit(lambda x: x * 2.5).lower(x).compile()(x)) == 2.5)

    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compilation_cache.reset_cache()
    call()
    (entry,) = tmp_path.iterdir()
    whole = entry.read_bytes()
    with warnings.catch_warnings(action="error"):
        for damage in (b"", whole[:100], whole[:50] + b"?" + whole[51:]):
            entry.write_bytes(damage)
            call()
            assert list(tmp_path.iterdir()) == [entry]
            assert abs(len(entry.read_bytes()) - len(whole)) < 100  # the time it took differs
    changed = entry.stat().st_mtime_ns
    with pytest.warns(match="Input/output"), monkeypatch.context() as patch:
        patch.setattr(LRUCache, "get", Mock(side_effect=OSError(5, "Input/output error")))
        call()
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    with pytest.warns(match="RESOURCE_EXHAUSTED"), monkeypatch.context() as patch:
        patch.setattr(LRUCache, "get", Mock(side_effect=full))
        call()
    assert entry.stat().st_mtime_ns == changed


def test_a_folder_that_cannot_be_made_does_not_stop_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = run(str(tmp_path / "file"))
    assert done.returncode == 0 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("note: no compiled programs are kept")


def test_standard_error_stays_what_it_is_while_something_compiles(tmp_path: Path) -> None:
    seen = []

    def function(x: jax.Array) -> jax.Array:  # a helper process started here would inherit it
        seen.append(os.fstat(2))
        return x + 1

    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compiled(jax.jit(function), jnp.ones(3))
    assert (seen[0].st_dev, seen[0].st_ino) == (os.fstat(2).st_dev, os.fstat(2).st_ino)


def test_features_that_the_processor_lacks_stay_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_cache, "processor_features", lambda: "flags : avx512f avx512_vnni")
    extract = program_cache._unhinted(lambda entry: (entry, 7))
    entry = b"+64bit,+avx512f,+avx512fp16,+avx512vnni,+prefer-no-gather,+sse2,-avx512bf16"
    listed = b"+64bit,-avx512f,+avx512fp16,-avx512vnni,-prefer-no-gather,+sse2,-avx512bf16"
    assert extract(entry) == (listed, 7)


def test_compiled_is_the_function_for_those_shapes() -> None:
    program = compiled(jax.jit(lambda x, n: x * n), jnp.ones(3), 1)
    assert program(jnp.arange(3.0), 4).tolist() == [0.0, 4.0, 8.0]


def test_without_compilation_the_function_itself_runs() -> None:
    with jax.disable_jit():
        program = compiled(jax.jit(lambda x: x if x > 1 else -x), 2)  # asks for a value
        assert program(2) == 2
    keep_programs("")


@pytest.mark.parametrize("home", [None, "/proc/none"])
def test_without_a_home_to_write_to_no_programs_are_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: str | None
) -> None:
    if home is None:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a user without an entry
    else:
        monkeypatch.setenv("HOME", home)
    jax.config.update("jax_compilation_cache_dir", None)
    keep_programs("~/.cache/jfedsl")
    assert jax.config.jax_compilation_cache_dir is None
    error = capsys.readouterr().err
    assert error.startswith("note: no compiled programs are kept") and error.count("\n") == 1
