"""keep_memory takes effect on glibc, and can be switched off."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = "from sfumato.nn.kernels.memory import keep_memory as k; print(k())"


@pytest.mark.parametrize(("switch", "wanted"), [("", "True"), ("0", "False")])
def test_keep_memory_and_its_switch(switch, wanted):
    if platform.libc_ver()[0] != "glibc":
        wanted = "False"
    environment = {**os.environ, "SFUMATO_KEEP_MEMORY": switch}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == wanted


def test_keep_memory_keeps_pages():
    """A large block that comes and goes does not fault its pages in every time."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("glibc alone")
    program = """
import resource, torch
torch.set_num_threads(1)
from sfumato.nn.kernels.memory import keep_memory
{call}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): torch.zeros(2**24)  # the heap grows by and by
before = faults()
for _ in range(10): torch.zeros(2**24)
print(faults() - before)
"""

    def count(call):
        command = [sys.executable, "-c", program.format(call=call)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
        environment["SFUMATO_KEEP_MEMORY"] = ""
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert count("assert keep_memory()") < count("") / 2
