"""A whole run opens no connection: nothing is downloaded unasked, nothing is sent."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .own_data import write_own_data
from .test_docs import TINY
from .test_newcomer_mistakes import SMALL

ROOT = Path(__file__).parents[1]
# Python imports it at every start, in workers, too. What connects or looks up a name is caught and
# written down: a library could swallow the error.
BLOCK = """
import socket

def refuse(what):
    def refused(*arguments, **named):
        if not (arguments and getattr(arguments[0], "family", None) == socket.AF_UNIX):
            open({log!r}, "a").write(f"{{what}} {{arguments}}\\n")
            raise OSError(f"{{what}}: this run is offline")
        return original[what](*arguments, **named)
    return refused

original = {{name: getattr(socket.socket, name) for name in ("connect", "connect_ex", "sendto")}}
for name in original:
    setattr(socket.socket, name, refuse(name))
for name in ("getaddrinfo", "gethostbyname", "create_connection"):
    setattr(socket, name, refuse(name))
"""


@pytest.fixture
def offline(tmp_path):
    """Returns a function that runs Python where every connection raises, and is noted."""
    (tmp_path / "sitecustomize.py").write_text(BLOCK.format(log=str(tmp_path / "asked")))

    def run(*command, before=()):
        done = subprocess.run(
            [*before, sys.executable, *map(str, command)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        asked = tmp_path / "asked"
        assert not asked.exists(), f"the network was asked: {asked.read_text()}"
        return done

    return run


def test_a_run_opens_no_connection(offline, tmp_path):
    write_own_data(tmp_path)
    (tmp_path / "small.py").write_text(SMALL.replace("num_workers=0", "num_workers=1"))
    done = offline(ROOT / "tools/train.py", "small.py", "--work-dir", "run", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/checkpoints/step_00000001").exists()


def test_a_connection_would_be_noticed(offline, tmp_path):
    code = "import socket\ntry: socket.create_connection(('127.0.0.1', 9))\nexcept OSError: pass"
    with pytest.raises(AssertionError, match="the network was asked"):
        offline("-c", code)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["declip_r50_laptop", "dino_vit_s16_laptop"])
def test_a_shipped_config_runs_where_there_is_no_network(config, offline, tmp_path):
    """With its evaluators; where the kernel lets us, without any network at all."""
    cut = ["unshare", "--map-root-user", "--net"]
    may = shutil.which("unshare") and not subprocess.run([*cut, "true"], check=False).returncode
    options = [option for option in TINY if not option.startswith("evaluation")]
    work = ["--work-dir", "run", "--device", "cpu"]
    script, file = ROOT / "tools/train.py", ROOT / f"configs/{config}.py"
    done = offline(script, file, *work, "--cfg-options", *options, before=cut if may else ())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/results.md").exists()
    assert offline(ROOT / "tools/test.py", file, "run", before=cut if may else ()).returncode == 0
