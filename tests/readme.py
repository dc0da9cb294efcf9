"Writes README.md from nbs/index.ipynb: prose, code and printed output; cells marked `#| hide` or `#| include: false` are left out."
import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent


def cell(c):
    if c.cell_type == 'markdown': return re.sub(r'\]\((\w+)\.ipynb', r'](nbs/\1.ipynb', c.source)
    if re.search(r'^#\|\s*(hide|include:\s*false)', c.source, re.M) or not c.source.strip(): return None
    source = '\n'.join(o for o in c.source.splitlines() if not o.startswith('#|'))
    printed = ''.join(o.get('text', '') or o.get('data', {}).get('text/plain', '') for o in c.outputs)
    return f'```python\n{source}\n```' + (f'\n\n```\n{printed.rstrip()}\n```' if printed.strip() else '')


def render():
    cells = (cell(c) for c in nbformat.read(ROOT/'nbs/index.ipynb', 4).cells)
    return '<!-- Rendered from nbs/index.ipynb by `make export`; edit that. -->\n\n' + '\n\n'.join(o for o in cells if o) + '\n'


if __name__ == '__main__': (ROOT/'README.md').write_text(render())
