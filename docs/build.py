"""Build the site into _site/ without running any notebook.

nbdev's processors prepare the notebooks, except the one that executes cells: the reference entry of a public name
(signature, parameters, docstring) is read from the imported package. smalldocs then renders the pages with the same
_quarto.yml that Quarto reads. KaTeX is copied from docs/node_modules: no page needs another server.
"""

import ast
import html
import inspect
import json
import os
import re
import shutil
import sys
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from pprint import pformat

import yaml
from fastcore.nbio import mk_cell, read_nb, write_nb
from nbdev.config import nbpath2html
from nbdev.process import Processor

# nbdev has no public way to leave single processors out, or to ask for a notebook's module.
from nbdev.processors import FilterDefaults, _default_exp, add_links, exec_show_docs
from nbdev.showdoc import show_doc
from smalldocs import layout
from smalldocs.config import load
from smalldocs.site import Site

ROOT = Path(__file__).resolve().parent.parent
NBS, STAGE, OUT, NODE = ROOT / 'nbs', ROOT / '_proc', ROOT / '_site', ROOT / 'docs/node_modules'
REPOSITORY = 'https://github.com/cxrlt-nb/cxrlt_nb/blob/main'
KATEX = 'site_libs/katex'
MAX_CONSTANT_LINES = 12


def notebooks():
    return sorted(o for o in NBS.rglob('*.ipynb') if not any(part.startswith(('.', '_')) for part in o.parts))


def text_pages():
    return sorted(NBS.glob('*.qmd'))


def page_name(path):
    "The name of a page on the site: `phantom/00_canvas.ipynb` becomes `phantom/canvas.ipynb`"
    path = Path(path)
    return nbpath2html(path).with_suffix(path.suffix).as_posix()


def page_of(file):
    "The page of a file in nbs/"
    return page_name(Path(file).resolve().relative_to(NBS))


def relative_link(target, page):
    "A link from `page` to `target`, both as seen from the top of the site"
    return os.path.relpath(target, os.path.dirname(page) or '.')


def rename_links(text):
    "Links to notebooks, as the repository names them, become links to the pages of the site"
    return re.sub(r'(?<=\]\()[\w./-]+\.ipynb', lambda m: page_name(m[0]), text)


def slug(text):
    return re.sub(r'[^\w.-]+', '-', re.sub(r'[`*?,:;()/"\']', '', text.lower()).strip()).strip('-')


# The reference


def heading(name, file, line, level):
    "The heading of an entry, with a link to the line that defines the name"
    url = f'{REPOSITORY}/{Path(file).relative_to(ROOT).as_posix()}#L{line}'
    link = f'[source]({url}){{.source-link aria-label="source of {name}"}}'
    return f'{"#" * level} {name} {{#{name} .api}}\n\n{link}\n\n'


def callable_entry(mod, name, obj, line, level):
    "The entry of a function, class or method: nbdev's own, under our heading"
    text = show_doc(obj, name=name)._repr_markdown_()
    return heading(name, mod.__file__, line, level) + text.split(f'### {name}\n\n', 1)[1]


def constant_entry(mod, name, line, source):
    "The entry of a constant: its value and the `#:` comment above it"
    comment = []
    while (above := source[line - 2 - len(comment)]).startswith('#:'):
        comment.insert(0, above[2:].strip())
    first, *rest = pformat(getattr(mod, name), width=80 - len(name), sort_dicts=False).split('\n')
    shown = [first, *(' ' * (len(name) + 3) + o for o in rest[: MAX_CONSTANT_LINES - 1])]
    if len(rest) >= MAX_CONSTANT_LINES:
        shown.append('# …')
    text = heading(name, mod.__file__, line, 3) + f'```python\n{name} = {chr(10).join(shown)}\n```'
    return text + (f'\n\n*{" ".join(comment)}*' if comment else '')


def method_entries(mod, cls, node):
    "Name → entry, for the public methods and properties that a class defines itself"
    for o in node.body:
        if not isinstance(o, ast.FunctionDef) or o.name.startswith('_'):
            continue
        static = inspect.getattr_static(cls, o.name, None)
        fn = getattr(static, '__func__', None) or getattr(static, 'fget', None) or static
        if inspect.isfunction(fn):
            name = f'{cls.__name__}.{o.name}'
            yield name, callable_entry(mod, name, fn, o.lineno, 4)


def patched_class(node):
    "The name of the class that fastcore's `@patch` adds a function to, or None"
    is_patch = isinstance(node, ast.FunctionDef) and any('patch' in ast.unparse(o) for o in node.decorator_list)
    return ast.unparse(node.args.args[0].annotation) if is_patch and not node.name.startswith('_') else None


def module_entries(mod):
    "Name → entry, for everything in `__all__`, and for public methods that are added to its classes"
    text = Path(mod.__file__).read_text()
    for node in ast.parse(text).body:
        if cls := patched_class(node):
            name = f'{cls}.{node.name}'
            yield name, callable_entry(mod, name, getattr(getattr(mod, cls), node.name), node.lineno, 4)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in mod.__all__:
            obj = getattr(mod, node.name)
            yield node.name, callable_entry(mod, node.name, obj, node.lineno, 3)
            if isinstance(node, ast.ClassDef) and inspect.isclass(obj):
                yield from method_entries(mod, obj, node)
        for name in assigned_names(node):
            if name in mod.__all__:
                yield name, constant_entry(mod, name, node.lineno, text.split('\n'))


def assigned_names(node):
    if not isinstance(node, (ast.Assign, ast.AnnAssign)):
        return []
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [o.id for target in targets for o in ast.walk(target) if isinstance(o, ast.Name)]


def names_of(node):
    "The names that a statement defines, as the reference has them"
    if cls := patched_class(node):
        return [f'{cls}.{node.name}']
    if isinstance(node, ast.ClassDef):
        return [node.name, *(f'{node.name}.{o.name}' for o in node.body if isinstance(o, ast.FunctionDef))]
    return [node.name] if hasattr(node, 'name') else assigned_names(node)


class Reference:
    "Every public name of the package with its page, anchor and entry"

    def __init__(self):
        self.pages, self.entries, self.links = {}, {}, {}
        for file in notebooks():
            if name := _default_exp(read_nb(file)):
                self.pages[name] = page_of(file)
                self.entries[name] = dict(module_entries(import_module(f'cxrlt_nb.{name}')))
        self.modules = {page: name for name, page in self.pages.items()}
        self._collect_links()

    def _collect_links(self):
        count = Counter(k for entries in self.entries.values() for k in entries)
        for module, entries in self.entries.items():
            page = self.pages[module]
            self.links[f'cxrlt_nb.{module}'] = page
            for k in entries:
                names = [f'{module}.{k}', f'cxrlt_nb.{module}.{k}', *([k] if count[k] == 1 else [])]
                self.links |= dict.fromkeys(names, f'{page}#{k}')

    def linkify(self, text, page):
        "Turn a public name in backticks into a link to its entry; the page's own module comes first"
        own = self.entries.get(self.modules.get(page), {})

        def link(m):
            name = m[1].removesuffix('()')
            if name in own:
                return f'[`{m[1]}`](#{name})'
            target = self.links.get(name)
            return f'[`{m[1]}`]({relative_link(target, page)})' if target and target != page else m[0]

        out, fence = [], None
        for line in text.split('\n'):
            if (m := re.match(r'^\s*(```+|~~~+)', line)) and fence in (None, m[1]):
                fence = m[1] if fence is None else None
            elif fence is None and not line.startswith('    ') and not re.match(r'#{1,6} ', line):
                line = re.sub(r'(?<![\[`])`([^`\s]+)`(?![\]`])', link, line)
            out.append(line)
        return '\n'.join(out)


# The notebooks


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


def named_figures(cell):
    "Vector figures go into the page itself: without the head of their file, with alternative text and with unique ids"
    alt = cell.directives_.get('fig-alt', '').strip('"') if cell.cell_type == 'code' else ''
    for output in cell.get('outputs', []):
        if svg := output.get('data', {}).get('image/svg+xml'):
            start = ''.join(svg).partition('<svg ')[2]
            start = re.sub(r'(\bid="|url\(#|href="#)', rf'\1f{cell.idx_}-', start)  # figures of a page share their ids
            output['data']['image/svg+xml'] = f'<svg role="img" aria-label="{html.escape(alt)}" {start}'


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
        return [named_figures, Entries, *kept, Prose, plain_front]


# The site


def stage_notebook(file):
    nb = read_nb(file)
    nb.path_ = file
    Procs()(nb)
    for cell in nb.cells:
        cell.metadata.pop('language', None)
    to = STAGE / page_of(file)
    to.parent.mkdir(exist_ok=True)
    write_nb(nb, to)


def stage():
    "Write everything that smalldocs reads, under its name on the site, into STAGE"
    if STAGE.exists():
        shutil.rmtree(STAGE)
    STAGE.mkdir()
    reference = Entries.reference = Prose.reference = Reference()
    for file in notebooks():
        stage_notebook(file)
    for file in text_pages():
        (STAGE / file.name).write_text(rename_links(reference.linkify(file.read_text(), file.name)))
    for file in [*NBS.glob('*.css'), *NBS.glob('images/*'), *NBS.glob('results/*.csv')]:
        to = STAGE / file.relative_to(NBS)
        to.parent.mkdir(exist_ok=True)
        shutil.copy(file, to)
    config = (ROOT / '_quarto.yml').read_text()
    (STAGE / '_quarto.yml').write_text(re.sub(r'[\w/]+\.ipynb', lambda m: page_name(m[0]), config))
    return reference


def sidebar_pages(entries):
    "The pages that a sidebar names, in order"
    for o in entries:
        if isinstance(o, str):
            yield o
        elif 'href' in o:
            yield o['href']
        else:
            yield from sidebar_pages(o.get('contents', []))


def check_pages():
    "Every page has a name that no other page has, and is in the sidebar once"
    files = [o.relative_to(NBS).as_posix() for o in [*notebooks(), *text_pages()]]
    stems = Counter(Path(page_name(o)).stem for o in files)
    if repeated := [k for k, n in stems.items() if n > 1]:
        sys.exit(f'more than one page is called {repeated[0]!r}; rename one of the notebooks')
    sidebar = list(sidebar_pages(yaml.safe_load((ROOT / '_quarto.yml').read_text())['website']['sidebar']['contents']))
    missing, unknown = sorted(set(files) - set(sidebar)), sorted(set(sidebar) - set(files))
    repeated = sorted(k for k, n in Counter(sidebar).items() if n > 1)
    if missing or unknown or repeated:
        sys.exit(f'sidebar of _quarto.yml: missing {missing}, unknown {unknown}, repeated {repeated}')


def copy_katex():
    dist = NODE / 'katex/dist'
    for name in ('katex.min.css', 'katex.min.js', 'contrib/auto-render.min.js'):
        (OUT / KATEX / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(dist / name, OUT / KATEX / name)
    shutil.copytree(dist / 'fonts', OUT / KATEX / 'fonts', ignore=shutil.ignore_patterns('*.ttf', '*.woff'))


def finish(reference):
    "Make the pages independent of other servers, and list the public names for the tests"
    copy_katex()
    for page in OUT.glob('*/*.html'):  # smalldocs has one address of KaTeX for pages in every folder
        page.write_text(page.read_text().replace(f'="{KATEX}/', f'="../{KATEX}/'))
    for css in OUT.glob('site_libs/themes/*.css'):  # Themes import fonts from another server
        css.write_text(re.sub(r'@import url\([^)]*\);', '', css.read_text()))
    (OUT / '.nojekyll').touch()
    names = {k: v.replace('.ipynb', '.html') for k, v in reference.links.items() if k.startswith('cxrlt_nb.')}
    (OUT / 'names.json').write_text(json.dumps(names, indent=0))


def main():
    start = time.time()
    if not (NODE / 'katex').is_dir():
        sys.exit('KaTeX is missing: `make docs` fetches it with npm (apt-get install npm, or Node 18 or later)')
    check_pages()
    reference = stage()
    layout.KATEX = KATEX
    site = Site(load(STAGE), quiet=True)
    site.out = OUT
    n = site.build()
    finish(reference)
    if site.warnings:
        sys.exit('\n'.join(site.warnings))
    entries = sum(map(len, reference.entries.values()))
    print(f'{n} pages, {entries} entries, {time.time() - start:.0f} s: {OUT / "index.html"}')


if __name__ == '__main__':
    main()
