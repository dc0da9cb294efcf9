"The checkout as git sees it, for tests that need a copy of their own."

import shutil
import subprocess

from readme import ROOT


def copy_checkout(to, without=()):
    "Copy the tracked and new files, symbolic links left out, and those whose names begin with one of `without`"
    files = subprocess.run(
        ['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split('\n')
    for o in filter(None, files):
        if (ROOT / o).is_file() and not (ROOT / o).is_symlink() and not o.startswith(tuple(without)):
            (to / o).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / o, to / o)
    return to
