"""The process itself: what it imports, its streams, its signals and its exit. None of these
processes imports torch: each starts in a fraction of a second."""

import ast
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mitune

ROOT = Path(mitune.__file__).parent
# A verb whose work is given as code.
START = """
import os, sys, threading, time
from mitune.cli import main
from mitune.cli.commands import COMMANDS

def work(self):
    {}
    return {{"done": True}}

COMMANDS["doctor"].run = work
sys.argv[1:] = {}
main()
"""
HEAVY = ("torch", "diffusers", "transformers", "numpy", "pyarrow", "PIL", "peft", "tyro")


def doctor(work: str, *arguments: str) -> list[str]:
    code = START.format(work.replace("\n", "\n    "), ["doctor", *arguments])
    return [sys.executable, "-c", code]


def run(command: list[str], **given) -> "subprocess.CompletedProcess[str]":
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 60} | given
    return subprocess.run(command, encoding="utf-8", errors="replace", **given)


def shell(redirection: str, command: list[str]) -> "subprocess.CompletedProcess[str]":
    return run(["bash", "-c", f'set -o pipefail; "$@" {redirection}', "bash", *command])


def test_the_package_and_every_help_leave_torch_alone():
    code = f"""
import io, sys, contextlib
import mitune
from mitune.cli import main
from mitune.cli.commands import COMMANDS
dir(mitune), mitune.UserError, mitune.TuneConfig, mitune.SamplerConfig
with contextlib.redirect_stdout(io.StringIO()) as told:
    main(["--help"])
    for verb in COMMANDS:
        main([verb, "--help"])
print(sorted(set({HEAVY!r}) & set(sys.modules)), len(told.getvalue()) > 1000)
"""
    done = run([sys.executable, "-c", code])
    assert (done.stdout, done.stderr, done.returncode) == ("[] True\n", "", 0)


def test_a_function_keeps_its_name_whoever_imports_its_module_first(tmp_path, monkeypatch):
    """As mitune.align, which is a function, and a module whose import would take its place."""
    package = tmp_path / "toy"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from mitune.core.lazy import lazy\n"
        "__getattr__, __dir__ = lazy(__name__, {'do': 'toy.do', 'VALUE': 'toy.other'})\n"
    )
    (package / "do.py").write_text("def do(): return 3\n")
    (package / "other.py").write_text("VALUE = 4\n")
    monkeypatch.syspath_prepend(tmp_path)
    toy = importlib.import_module("toy.do") and importlib.import_module("toy")
    try:
        assert {"do", "VALUE"} <= set(dir(toy))
        assert (toy.do(), toy.VALUE, toy.other.VALUE) == (3, 4, 4)
        assert toy.do is importlib.import_module("toy.do").do
    finally:
        for name in ("toy", "toy.do", "toy.other"):
            sys.modules.pop(name, None)


def test_public_names():
    assert set(mitune.__all__) <= set(dir(mitune))
    assert all(getattr(mitune, name) is not None for name in mitune.__all__)
    assert mitune.estimate.pointwise_mi
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        mitune.nothing  # noqa: B018


def test_no_module_imports_private_parts_of_torch():
    """Functions may: they then have another way where torch has moved them."""
    found = []
    for path in ROOT.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            found += [(path.name, name) for name in names if name.startswith("torch._")]
    assert found == []


@pytest.mark.parametrize(
    ("redirection", "code", "words"),
    [
        (">/dev/full", 1, "mitune: standard output cannot be written: No space left on device\n"),
        (">&-", 1, "mitune: standard output cannot be written: Bad file descriptor\n"),
        ("| true", 141, ""),
        (">/dev/null 2>&-", 0, ""),
        ("<&- >/dev/null", 0, ""),
        (">&- 2>&-", 1, ""),
        (">/dev/full 2>/dev/full", 1, ""),
    ],
)
def test_streams_that_cannot_be_written(redirection, code, words):
    work = "time.sleep(0.2 * ('true' in sys.argv))\nfor i in range(5000): print('a line of text')"
    done = shell(redirection, doctor(work))
    assert (done.returncode, done.stderr) == (code, words)


def test_a_file_does_not_take_the_place_of_a_closed_stream(tmp_path):
    work = f"file = open({str(tmp_path / 'kept')!r}, 'w')\nfile.write('data')\nprint('told')"
    shell(">&- 2>&- <&-", doctor(work))
    assert (tmp_path / "kept").read_text() == "data"


@pytest.mark.parametrize(
    "given", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}]
)
def test_text_that_the_terminal_lacks_is_escaped(given):
    work = "print('caf\\xe9 \\udcff')\nprint('\\u2603', file=sys.stderr)"
    done = run(doctor(work, "--json"), env={**os.environ, "PYTHONCOERCECLOCALE": "0", **given})
    assert done.returncode == 0
    assert done.stdout.splitlines() == [r"caf\xe9 \udcff", '{"done": true}']
    assert done.stderr == "\\u2603\n"


@pytest.mark.parametrize("module", ["mitune", "mitune.cli"])
def test_it_runs_as_a_module(module):
    done = run([sys.executable, "-m", module, "--version"])
    assert (done.stdout, done.stderr) == (f"mitune {mitune.__version__}\n", "")


def test_arguments_that_are_not_text():
    done = subprocess.run(
        [sys.executable, "-m", "mitune", b"\xff"], capture_output=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith(rb"mitune: verb '\udcff' is not known: choose one of align")


def test_a_fault_of_ours_is_shown_whole_and_asks_for_a_report():
    done = run(doctor("raise ValueError('surprise')"))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ValueError: surprise\nmitune: this is a fault of mitune; please" in done.stderr


@pytest.mark.parametrize("error", ["MemoryError()", "RuntimeError('CPU: can\\'t allocate memory')"])
def test_too_little_memory_is_one_line(error):
    done = run(doctor(f"raise {error}"))
    assert done.returncode == 1
    assert done.stderr.startswith("mitune: too little memory (")
    assert len(done.stderr.splitlines()) == 1


def test_a_disk_that_fails_is_one_line():
    done = run(doctor("os.remove('/nowhere/at/all')"))
    assert done.returncode == 1
    assert done.stderr == (
        "mitune: No such file or directory: /nowhere/at/all; finished work is kept\n"
    )


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_ends_it_at_once(number, code, word):
    """Also with a thread at work that would be waited for, as one that compiles."""
    work = "threading.Thread(target=time.sleep, args=(60,)).start()\nprint('ready', flush=True)"
    process = _start(work + "\ntime.sleep(60)", "--json")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code
    line = f"{word}; finished work is kept. To go on: mitune doctor --json"
    assert (err, json.loads(out)) == (f"mitune: {line}\n", {"error": line})


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_ends_a_program_that_is_no_verb_alike(tmp_path, number, code, word):
    (tmp_path / "toy.py").write_text(
        "import time\n"
        "from dataclasses import dataclass\n"
        "from mitune.arguments.module import run_module\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Toy:\n"
        '    """A toy."""\n'
        "def work(toy):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    run_module(Toy, work)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "toy"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (code, f"mitune: {word}; finished work is kept\n")


def test_a_second_interrupt_does_not_wait_for_the_first():
    work = "try:\n    print('ready', flush=True)\n    time.sleep(60)\nfinally:\n    "
    process = _start(work + "print('cleaning', flush=True)\n    time.sleep(60)")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")


def test_an_interrupt_amid_the_imports():
    """From the first lines of mitune on: whenever it comes, there is no traceback of ours."""
    code = (
        "import os, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'mitune.arguments.parser': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from mitune.cli import main\n"
        "main()\n"
    )
    done = run([sys.executable, "-c", code], preexec_fn=_heed_interrupts)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "mitune: interrupted\n")


def test_an_ignored_interrupt_stays_ignored():
    """A shell's background jobs, and nohup."""
    command = doctor("os.kill(os.getpid(), 2)\nprint('here')")
    done = run(["bash", "-c", 'trap "" INT; "$@"', "bash", *command])
    assert (done.stdout, done.returncode) == ("here\n", 0)


def _heed_interrupts() -> None:
    """Where the tests run in a shell's background, interrupts are ignored, and would stay so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _start(work: str, *arguments: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        doctor(work, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_interrupts,
    )
    started = time.monotonic()
    assert process.stdout.readline() == "ready\n"
    assert time.monotonic() - started < 30
    return process
