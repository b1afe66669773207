"""Where what was compiled is kept, for users with and without a home; nothing is compiled here."""

import os
import pwd
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch

from mitune.core import caches
from mitune.core.errors import UserError
from mitune.runtime.compile import inductor as compiling
from mitune.runtime.compile import onednn as products

CPU = torch.device("cpu")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """No cache folder but what a test gives."""
    for name in ("HOME", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # so that what the code sets is taken back
        monkeypatch.delenv(name)

    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    caches.cache_folder.cache_clear()
    yield monkeypatch
    caches.cache_folder.cache_clear()


def test_the_users_cache_folder(machine, tmp_path, capsys):
    machine.setenv("HOME", str(tmp_path / "home"))
    assert caches.cache_folder() == tmp_path / "home" / ".cache" / "mitune"
    caches.cache_folder.cache_clear()
    machine.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert caches.cache_folder() == tmp_path / "xdg" / "mitune"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("given", [{}, {"HOME": "/proc"}, {"XDG_CACHE_HOME": "/proc/none"}])
def test_without_a_cache_folder_one_of_our_own(given, machine, tmp_path, capsys):
    for name, value in given.items():
        machine.setenv(name, value)
    folder = caches.cache_folder()
    assert folder == tmp_path / f"mitune-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert "no cache folder can be written" in capsys.readouterr().err
    caches.cache_folder.cache_clear()
    assert caches.cache_folder() == folder  # and what was compiled is found again


@pytest.mark.parametrize("kind", ["open", "link", "file", "foreign"])
def test_a_folder_that_another_may_have_made_is_not_used(kind, machine, tmp_path):
    known = tmp_path / f"mitune-{os.getuid()}"
    (tmp_path / "theirs").mkdir(mode=0o700)
    if kind == "link":
        known.symlink_to(tmp_path / "theirs")
    elif kind == "file":
        known.touch()
    else:
        known.mkdir(mode=0o700)
    if kind == "open":
        known.chmod(0o770)
    if kind == "foreign":
        mine = os.getuid()
        found = os.stat_result([*known.lstat()[:4], mine + 1, *known.lstat()[5:]])
        machine.setattr(Path, "lstat", lambda self: found)
    folder = caches.cache_folder()
    assert folder not in (known, tmp_path / "theirs")
    assert folder.parent == tmp_path
    assert list((tmp_path / "theirs").iterdir()) == []


def test_the_folder_that_the_user_names_is_used_or_told_of(machine, tmp_path):
    machine.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "c"))
    compiling.compile_run(lambda z, t, cond: z, CPU)  # without a home
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "c")
    machine.setenv("TORCHINDUCTOR_CACHE_DIR", "/proc/none")
    with pytest.raises(UserError, match="TORCHINDUCTOR_CACHE_DIR is /proc/none"):
        compiling.compile_run(lambda z, t, cond: z, CPU)


def test_a_torch_with_another_inductor_still_compiles(machine, tmp_path):
    """Threads then take turns."""
    machine.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    machine.setitem(sys.modules, "torch._inductor.compile_fx", None)
    machine.setattr(torch, "compile", lambda run, **_: run)
    compiling.compiler.cache_clear()
    inside, most = [], []

    def run(z, t, cond):
        inside.append(z)
        time.sleep(0.01)
        most.append(len(inside))
        inside.pop()
        return z + t

    try:
        compiled = compiling.compile_run(run, CPU)
        z = torch.ones(2)
        threads = [threading.Thread(target=compiled, args=(z, z, {})) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (most, compiled(z, z, {}).tolist()) == ([1] * 5, [2.0, 2.0])
    finally:
        compiling.compiler.cache_clear()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_products_stay_torchs_own_where_a_part_is_missing(machine):
    products.why_not.cache_clear()
    machine.setitem(sys.modules, "torch._inductor.custom_graph_pass", None)
    try:
        assert "has another inductor than expected" in products.why_not()
    finally:
        products.why_not.cache_clear()
