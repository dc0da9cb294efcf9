"""Write README.md from nbs/index.ipynb: prose, code and printed output.

Cells marked `#| hide` or `#| include: false` are left out; cells marked `#| echo: false` show only their output. Text
and Markdown outputs are kept. Pictures in outputs are not: the README shows picture files. What a comment
`<!-- README … -->` contains is for the README only: badges come from other servers, which the site avoids.
"""

import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
HEADER = '<!-- Rendered from nbs/index.ipynb by `make export`. Edit the notebook, not this file. -->'
HIDDEN = re.compile(r'^#\|\s*(hide|include:\s*false)', re.M)
ONLY_HERE = re.compile(r'<!-- README\n(.*?)\n-->\n', re.S)
NO_CODE = re.compile(r'^#\|\s*echo:\s*false', re.M)


def from_top(text):
    "Links and pictures as seen from the top of the repository"
    return re.sub(r'\]\(((?:\w+/)?\w+\.(?:ipynb|qmd)|images/)', r'](nbs/\1', text)


def markdown_of(output):
    "The Markdown of an output, but not of a progress bar"
    text = output.get('data', {}).get('text/markdown', '')
    return '' if 'fastprogress' in text else text


def text_of(output):
    "The text of an output; none for a picture, a progress bar or HTML that has no text of its own"
    data = output.get('data', {})
    text = output.get('text') or data.get('text/plain', '')
    no_text = {'image/png', 'image/jpeg'} & data.keys() or 'fastprogress' in text or text.startswith('<IPython')
    return '' if no_text else text


def render_code(cell):
    source = '\n'.join(o for o in cell.source.splitlines() if not o.startswith('#|'))
    parts = [] if NO_CODE.search(cell.source) else [f'```python\n{source}\n```']
    parts += [from_top(markdown_of(o)).strip() for o in cell.outputs if markdown_of(o)]
    printed = ''.join(text_of(o) for o in cell.outputs if not markdown_of(o))
    if printed.strip():
        parts.append(f'```\n{printed.rstrip()}\n```')
    return '\n\n'.join(parts)


def render():
    "The text of README.md"
    parts = [HEADER]
    for cell in nbformat.read(ROOT / 'nbs/index.ipynb', 4).cells:
        if cell.cell_type == 'markdown':
            parts.append(from_top(ONLY_HERE.sub(r'\1\n\n', cell.source)))
        elif cell.source.strip() and not HIDDEN.search(cell.source):
            parts.append(render_code(cell))
    return '\n\n'.join(parts) + '\n'


if __name__ == '__main__':
    (ROOT / 'README.md').write_text(render())
