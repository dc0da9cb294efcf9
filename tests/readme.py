"Writes README.md from nbs/index.ipynb: prose, code and printed output; cells marked `#| hide` or `#| include: false` are left out, and of `#| echo: false` the code."

import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent


def local(text):
    "Links and pictures as seen from the top of the repository"
    return re.sub(r'\]\((\w+\.(?:ipynb|qmd)|images/)', r'](nbs/\1', text)


def cell(c):
    if c.cell_type == 'markdown':
        return local(c.source)
    if re.search(r'^#\|\s*(hide|include:\s*false)', c.source, re.M) or not c.source.strip():
        return None
    source = '\n'.join(o for o in c.source.splitlines() if not o.startswith('#|'))
    printed = ''.join(
        o.get('text', '') or o.get('data', {}).get('text/plain', '')
        for o in c.outputs
        if 'text/markdown' not in o.get('data', {})
    )
    parts = [] if re.search(r'^#\|\s*echo:\s*false', c.source, re.M) else [f'```python\n{source}\n```']
    parts += [local(o.data['text/markdown']).strip() for o in c.outputs if 'text/markdown' in o.get('data', {})]
    return '\n\n'.join(parts) + (f'\n\n```\n{printed.rstrip()}\n```' if printed.strip() else '')


def render():
    cells = (cell(c) for c in nbformat.read(ROOT / 'nbs/index.ipynb', 4).cells)
    return (
        '<!-- Rendered from nbs/index.ipynb by `make export`; edit that. -->\n\n'
        + '\n\n'.join(o for o in cells if o)
        + '\n'
    )


if __name__ == '__main__':
    (ROOT / 'README.md').write_text(render())
