"""The notebooks as the site shows them: links, entries of the reference, folded tests and imports, figures.

nbdev's processors prepare the notebooks, except the one that executes cells.
"""

import ast
import base64
import html
import io
import re
import textwrap
from collections import Counter
from importlib import import_module

import numpy as np
from fastcore.basics import AttrDict
from fastcore.nbio import mk_cell
from nbdev.process import Processor

# nbdev has no public way to leave single processors out.
from nbdev.processors import FilterDefaults, add_links, exec_show_docs
from PIL import Image
from reference import names_of, page_of, rename_links, slug
from scipy import ndimage

MAX_LINE = 90  # Columns of code as shown
MAX_TEST_LINES = 6  # A longer cell that contains only tests is folded
DIRECTIVES = re.compile(r'(?:#\|[^\n]*\n)*')
MAX_SHRUNK = 600  # CSS pixels; the text of a wider picture would be too small on a phone
MIN_SCALE = 0.8  # Such a picture is never shown smaller than this
MIN_FINE_DPI = 110
MIN_SOLID = 33  # Pixels: text and ticks are thinner, the images of a figure are not
FOLDED = '#| code-fold: true\n#| code-summary: "{}"\n'

# What a page shows of its code


def statements(cell):
    "The statements of a code cell; none if it uses magics"
    try:
        return ast.parse(cell.source).body
    except SyntaxError:
        return []


def is_test(node):
    "An assertion, a call of `test_…`, or a block that contains nothing else"
    if isinstance(node, ast.With):
        return 'expect_fail' in ast.unparse(node.items[0]) or all(map(is_test, node.body))
    if isinstance(node, ast.For):
        return all(is_test(o) or isinstance(o, ast.Assign) for o in node.body) and any(map(is_test, node.body))
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    return isinstance(node, ast.Assert) or (is_call and ast.unparse(node.value.func).startswith('test_'))


def summary_of(cell, is_result):
    "Under which line the code of a cell is folded: Tests, Imports, Code, or None"
    if found := re.search(r'^#\| code-summary: "(.+)"', cell.source, re.M):
        return found[1]
    body = statements(cell)
    imports = sum(isinstance(o, (ast.Import, ast.ImportFrom)) for o in body)
    if imports and imports * 2 > len(body):
        return 'Imports'
    tests = sum(o.end_lineno - o.lineno + 1 for o in body if is_test(o))
    setting = sum(o.end_lineno - o.lineno + 1 for o in body if isinstance(o, ast.Assign))
    lines = sum(o.end_lineno - o.lineno + 1 for o in body)
    if body and is_test(body[-1]) and not cell.outputs and lines == tests + setting and lines > MAX_TEST_LINES:
        return 'Tests'
    return 'Code' if is_result else None


def without_directives(cell):
    return DIRECTIVES.sub('', cell.source, count=1)


def fold_cells(cells, is_result):
    "Fold tests and imports, and on a page of results all code; adjacent folded cells become one block"
    out, before = [], None
    for cell in cells:
        directives = DIRECTIVES.match(cell.source)[0] if cell.cell_type == 'code' else ''
        hidden = re.search(r'(hide|export|default_exp|exec_doc|echo: *false|include: *false)', directives)
        summary = summary_of(cell, is_result) if cell.cell_type == 'code' and cell.source and not hidden else None
        if summary == 'Tests':
            cell.outputs = []  # what a test shows is no part of the explanation
        plain = 'code-summary' in directives or not directives  # no caption that would be lost
        if summary == before and summary in ('Tests', 'Code') and plain and not out[-1].outputs:
            out[-1].source += f'\n\n{without_directives(cell)}'
            out[-1].outputs = cell.outputs
            continue
        if summary and 'code-fold' not in directives:
            cell.source = FOLDED.format(summary) + cell.source
        if is_result and summary == 'Imports':
            cell.source = '#| echo: false\n' + cell.source
        out.append(cell)
        before = summary
    return out


def import_lines(cells, module):
    "The import statements that a page does not show, after one of the public names of its own module"
    hidden = [
        c
        for c in cells
        if c.cell_type == 'code' and re.search(r'#\| *(hide|exports?)\b', DIRECTIVES.match(c.source)[0])
    ]
    nodes = [o for c in hidden for o in statements(c) if isinstance(o, (ast.Import, ast.ImportFrom))]
    lines = dict.fromkeys(ast.unparse(o) for o in nodes)
    names = import_module(f'cxrlt_nb.{module}').__all__ if module else []
    own = [f'from cxrlt_nb.{module} import {", ".join(names)}'] if names else []
    return own + sorted(lines, key=lambda o: (o.startswith('from'), o))


def wrapped(line):
    "An import statement of several lines, if it is long"
    if len(line) <= MAX_LINE:
        return line
    start, _, names = line.partition(' import ')
    return f'{start} import (\n{textwrap.fill(names, MAX_LINE, initial_indent="    ", subsequent_indent="    ")},\n)'


def add_imports(cells, module):
    "Put the imports that a page hides, folded, above its first code: so what the page shows can be copied"
    lines = import_lines(cells, module)
    code = [n for n, c in enumerate(cells) if c.cell_type == 'code' and 'default_exp' not in c.source]
    if lines and code:
        text = FOLDED.format('Imports') + '\n'.join(map(wrapped, lines))
        cells.insert(code[0], mk_cell(text, metadata=AttrDict()))


# Links and entries


class Entries(Processor):
    "Put the entries of the reference after the cells that define their names, where nbdev would run `show_doc`"

    reference = None

    def begin(self):
        page = page_of(self.nb.path_)
        entries = self.reference.entries.get(self.reference.modules.get(page), {})
        cells, done = [], set()
        for cell in self.nb.cells:
            cells.append(cell)
            for name in self.defined_names(cell):
                if name in entries and name not in done:
                    done.add(name)
                    cells.append(mk_cell(entries[name], 'markdown'))
        self.nb.cells = cells
        if missing := sorted(entries.keys() - done):
            raise ValueError(f'{self.nb.path_}: no export cell defines {", ".join(missing)}')

    def defined_names(self, cell):
        if cell.cell_type != 'code' or not {'export', 'exports'} & cell.directives_.keys():
            return []
        return [name for o in ast.parse(cell.source).body for name in names_of(o)]


class Prose(Processor):
    "Add links, and keep the anchors of headings apart from those of public names"

    reference = None

    def begin(self):
        self.page, self.seen = page_of(self.nb.path_), Counter()
        self.names = self.reference.entries.get(self.reference.modules.get(self.page), {})

    def anchor(self, m):
        if slug(m[1]) not in self.names or '{#' in m[0]:
            return m[0]
        self.seen[m[1]] += 1
        count = f'-{self.seen[m[1]]}' if self.seen[m[1]] > 1 else ''
        return f'{m[0]} {{#about-{slug(m[1])}{count}}}'

    def cell(self, cell):
        if cell.cell_type == 'markdown' and cell.source:
            text = re.sub(r'^#{2,4} (.+)$', self.anchor, cell.source, flags=re.M)
            cell.source = rename_links(self.reference.linkify(text, self.page))


# Figures


def opened(picture):
    return Image.open(io.BytesIO(base64.b64decode(picture)))


def is_plot(png):
    "Mostly white, and few levels of gray: a plot, which may be inverted on a dark page; a radiograph may not"
    rgb = np.asarray(opened(png).convert('RGB')).astype(int)
    grays = rgb[..., 0][np.ptp(rgb, axis=2) < 8]
    common = (np.bincount(grays, minlength=256) > 0.001 * rgb[..., 0].size).sum()
    return (rgb.min(axis=2) > 245).mean() > 0.5 and common < 13


def width_attribute(picture):
    "The width of a picture that states a high resolution, 96 CSS pixels per inch; a wide one scrolls on a phone"
    image = opened(picture)
    dpi = image.info.get('dpi', (0, 0))[0]
    if dpi <= MIN_FINE_DPI:
        return ''
    width = round(96 * image.width / dpi)
    least = f'style="min-width: {round(MIN_SCALE * width)}px" ' if width > MAX_SHRUNK else ''
    return f'width="{width}" ' + least


def images_within(figure):
    "The edges (left, top, right, bottom) in percent of the images that a figure shows on white; none without a margin"
    picture = opened(figure)
    gray = np.asarray(picture.convert('L'))
    is_transparent = np.asarray(picture.convert('RGBA'))[..., 3].min() < 255
    if is_transparent or min(gray[0].min(), gray[:, 0].min()) < 240:
        return []
    solid = ndimage.binary_opening(ndimage.binary_fill_holes(gray < 245), np.ones((MIN_SOLID, MIN_SOLID)))
    for box in ndimage.find_objects(ndimage.label(solid)[0]):
        solid[box] = True  # boxes that overlap become one
    slices = ndimage.find_objects(ndimage.label(solid)[0])
    edges = [(x.start + 1, y.start + 1, x.stop - 1, y.stop - 1) for y, x in slices]  # without the blurred edge
    return 100 * np.array(edges).reshape(-1, 4) / np.tile(gray.shape[::-1], 2)


def corners(left, top, right, bottom):
    "The corners of a box, and back to the corner of the figure"
    places = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top), (0, 0)]
    return ', '.join(f'{x:.2f}% {y:.2f}%' for x, y in places)


def with_margin(image, figure):
    "Lay an element over the white margin of a figure of images: a dark page inverts what is below it"
    boxes = images_within(figure)
    if not len(boxes):
        return image
    shape = ', '.join(corners(*o) for o in [(0, 0, 100, 100), *boxes])
    style = re.search(r' style="min-width: \d+px"', image)
    margin = f'<span class="margin" style="clip-path: polygon(evenodd, {shape})"></span>'
    return f'<span class="images"{style[0] if style else ""}>{image}{margin}</span>'


def mark_plots(page):
    "Mark the plots of a finished page, which are embedded in it, and the margins of its pictures, and set their width"

    def mark(m):
        image = f'<img {width_attribute(m[3])}{m[1]}'
        return f'<span class="plot">{image}</span>' if m[2] == 'png' and is_plot(m[3]) else with_margin(image, m[3])

    return re.sub(r'<img ([^>]*src="data:image/(png|jpeg);base64,([^"]+)"[^>]*>)', mark, page)


def mark_cells(page):
    "Mark the cells of tables that contain only numbers, which do not wrap, and those with several words, which do"
    page = re.sub(r'<td([^>]*)>(?=\s*[-+\d](?:[-+\d.,%\s\[\]–]| to )*</td>)', r'<td data-number\1>', page)
    return re.sub(r'<(t[dh])([^>]*)>(?=[^<\d+-][^<]{4,} [^<]{4,}</t)', r'<\1 data-words\2>', page)


def keep_intervals_together(page):
    "No line break inside an interval; code stays as it is, so that it can be copied"

    def together(m):
        return f'<span class="interval">{m[1]} {m[2]}</span>' if m[1] else m[0]

    return re.sub(r'<pre.*?</pre>|(?<=[\s>])(\[[-+\d.]+,) ([-+\d.]+\])', together, page, flags=re.S)


def code_in_captions(page):
    "Show `name` in the caption of a figure as code"
    return re.sub(
        r'<figcaption.*?</figcaption>', lambda m: re.sub('`([^`]+)`', r'<code>\1</code>', m[0]), page, flags=re.S
    )


FINISHING = (mark_plots, mark_cells, keep_intervals_together, code_in_captions)  # each takes a finished page


def named_figures(cell):
    "Vector figures go into the page itself: without the head of their file, with alternative text and with unique ids"
    alt = cell.directives_.get('fig-alt', '').strip('"') if cell.cell_type == 'code' else ''
    for output in cell.get('outputs', []):
        if svg := output.get('data', {}).get('image/svg+xml'):
            start = ''.join(svg).partition('<svg ')[2]
            start = re.sub(r'(<image[^>]*) id="[^"]*"', r'\1', start)  # two equal images have one id
            start = re.sub(r'(\bid="|url\(#|href="#)', rf'\1f{cell.idx_}-', start)  # figures of a page share their ids
            output['data']['image/svg+xml'] = f'<svg role="img" aria-label="{html.escape(alt)}" {start}'


def without_progress(cell):
    "Drop what a cell printed to stderr: progress bars and warnings"
    if cell.cell_type == 'code' and cell.get('outputs'):
        cell.outputs = [o for o in cell.outputs if o.get('name') != 'stderr']


def plain_numbers(cell):
    "Show NumPy's numbers as numbers: 0.7 for np.float64(0.7)"
    for output in cell.get('outputs', []):
        if text := output.get('data', {}).get('text/plain'):
            output['data']['text/plain'] = re.sub(r'np\.(?:float|int|bool)\w*\(([^()]+)\)', r'\1', ''.join(text))


def plain_front(cell):
    "Drop the page's output name: the file already has it"
    if cell.cell_type == 'raw' and cell.source:
        cell.source = re.sub(r'^output-file:.*\n', '', cell.source, flags=re.M)


class Procs(FilterDefaults):
    "nbdev's processors, with the reference in place of those that run or look for cells"

    without = (exec_show_docs, add_links)
    without_names = ('add_show_docs', 'clean_show_doc', 'insert_warning')

    def base_procs(self):
        kept = [o for o in super().base_procs() if o not in self.without and o.__name__ not in self.without_names]
        return [without_progress, plain_numbers, named_figures, Entries, *kept, Prose, plain_front]
