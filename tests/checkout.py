"The checkout as git sees it, for tests that need a copy."

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def copy_checkout(to, without=()):
    "Copy tracked and new files to `to`, except links and files whose names begin with one of `without`"
    command = ['git', 'ls-files', '--cached', '--others', '--exclude-standard']
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in files:
        file = ROOT / name
        if file.is_file() and not file.is_symlink() and not name.startswith(tuple(without)):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, to / name)
    return to
