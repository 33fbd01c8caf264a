"""The check that no test leaves a process finds those that it has to find."""
import os
import subprocess
import sys
import time

import processes


def test_children_and_their_children_are_found(start):
    """A child, and what it leaves behind in a session of its own after it is gone."""
    child = start(["sleep", "60"])
    code = ("import subprocess;"
            "print(subprocess.Popen(['sleep', '61'], start_new_session=True, stdout=-3, stderr=-3).pid)")  # -3: DEVNULL
    orphan = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
    time.sleep(0.2)
    try:
        leftovers = processes.left_behind(os.environ[processes.MARK])
        assert "sleep 60" in leftovers[child.pid] and "sleep 61" in leftovers[orphan] and os.getpid() not in leftovers
    finally:
        processes.kill_all([orphan])
