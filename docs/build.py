"""Builds the site into _site/ without running a cell of any notebook.

nbdev's own processors prepare the notebooks, but for the one that executes cells: the entries of public names (signature, docments,
docstring) are read from the imported package. smalldocs renders the result by the same _quarto.yml that Quarto reads. KaTeX comes
from docs/node_modules, so that no page asks another server for anything.
"""

import ast
import inspect
import json
import re
import shutil
import sys
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from pprint import pformat

import yaml
from fastcore.nbio import mk_cell, new_nb, read_nb, write_nb
from nbdev.config import nbpath2html
from nbdev.process import Processor
from nbdev.processors import FilterDefaults, _default_exp, add_links, exec_show_docs
from nbdev.showdoc import show_doc
from smalldocs import layout
from smalldocs.config import load
from smalldocs.site import Site

ROOT = Path(__file__).resolve().parent.parent
NBS, STAGE, OUT, NODE = ROOT / 'nbs', ROOT / '_proc', ROOT / '_site', ROOT / 'docs/node_modules'
CODE = 'https://github.com/cxrlt-nb/cxrlt_nb/blob/main/cxrlt_nb'
KATEX = 'site_libs/katex'
FENCE = re.compile(r'^\s*(```|~~~|:::)')


def clean_name(name):
    return nbpath2html(Path(name)).with_suffix(Path(name).suffix).name


def slug(text):
    return re.sub(r'[^\w.-]+', '-', re.sub(r'[`*?,:;()/"\']', '', text.lower()).strip()).strip('-')


def notebooks():
    return sorted(NBS.glob('*.ipynb'))


class Reference:
    "The package as the site shows it: every public name, its page, its anchor, its entry"

    def __init__(self):
        self.pages, self.entries, self.mods = {}, {}, {}
        for f in notebooks():
            if not (name := _default_exp(read_nb(f))):
                continue
            mod = import_module(f'cxrlt_nb.{name}')
            self.pages[name], self.mods[name] = clean_name(f.name), mod
            self.entries[name] = dict(self.of_module(mod, ast.parse(Path(mod.__file__).read_text())))
        seen = Counter(k for o in self.entries.values() for k in o)
        self.links = {}
        for name, entries in self.entries.items():
            for k in entries:
                href = f'{self.pages[name]}#{k}'
                self.links |= {f'{name}.{k}': href, f'cxrlt_nb.{name}.{k}': href} | ({k: href} if seen[k] == 1 else {})
            self.links[f'cxrlt_nb.{name}'] = self.pages[name]

    def module_of(self, notebook):
        return {v: k for k, v in self.pages.items()}.get(clean_name(notebook.name))

    def of_module(self, mod, tree):
        "Name -> Markdown for all of `__all__` and for the public methods of its classes"
        lines = Path(mod.__file__).read_text().split('\n')
        for o in tree.body:
            if isinstance(o, (ast.FunctionDef, ast.ClassDef)) and o.name in mod.__all__:
                obj = getattr(mod, o.name)
                yield o.name, self.entry(mod, o.name, obj, o.lineno, 3)
                for m in o.body if isinstance(o, ast.ClassDef) else []:
                    if (
                        isinstance(m, ast.FunctionDef)
                        and not m.name.startswith('_')
                        and (fn := inspect.getattr_static(obj, m.name))
                    ):
                        fn = getattr(fn, '__func__', None) or getattr(fn, 'fget', None) or fn
                        if inspect.isfunction(fn):
                            yield f'{o.name}.{m.name}', self.entry(mod, f'{o.name}.{m.name}', fn, m.lineno, 4)
            elif isinstance(o, (ast.Assign, ast.AnnAssign)):
                targets = o.targets if isinstance(o, ast.Assign) else [o.target]
                for t in (n for t in targets for n in ast.walk(t) if isinstance(n, ast.Name) and n.id in mod.__all__):
                    yield t.id, self.constant(mod, t.id, o.lineno, lines)

    def heading(self, mod, name, line, level):
        return f'{"#" * level} {name} {{#{name} .api}}\n\n[source]({CODE}/{Path(mod.__file__).name}#L{line}){{.source-link aria-label="source of {name}"}}\n\n'

    def entry(self, mod, name, obj, line, level):
        text = show_doc(obj, name=name)._repr_markdown_()
        return self.heading(mod, name, line, level) + text.split(f'### {name}\n\n', 1)[1]

    def constant(self, mod, name, line, lines):
        above = []
        while (text := lines[line - 2 - len(above)]).startswith('#:'):
            above.insert(0, text[2:].strip())
        first, *rest = pformat(getattr(mod, name), width=80 - len(name), sort_dicts=False).split('\n')
        value = '\n'.join([first, *(' ' * (len(name) + 3) + o for o in rest[:11]), *(['…'] if len(rest) > 11 else [])])
        return (
            self.heading(mod, name, line, 3)
            + f'```python\n{name} = {value}\n```'
            + (f'\n\n*{" ".join(above)}*' if above else '')
        )

    def linkify(self, text, page='', module=None):
        "A public name in backticks becomes a link to its entry; the page's own module comes first"
        own, fenced, out = self.entries.get(module, {}), None, []

        def link(m):
            name = m[1].removesuffix('()')
            href = f'#{name}' if name in own else self.links.get(name)
            return f'[`{m[1]}`]({href})' if href and href != page else m[0]

        for o in text.split('\n'):
            if (f := re.match(r'^\s*(```+|~~~+)', o)) and (fenced is None or f[1] == fenced):
                fenced = f[1] if fenced is None else None
            elif fenced is None and not o.startswith('    ') and not re.match(r'#{1,6} ', o):
                o = re.sub(r'(?<![\[`])`([^`\s]+)`(?![\]`])', link, o)
            out.append(o)
        return '\n'.join(out)


def pages_only(text):
    "Links to notebooks as the repository has them, to the pages as the site has them"
    return re.sub(r'(?<=\]\()(\w+)\.ipynb', lambda m: clean_name(m[0]), text)


class Entries(Processor):
    "Puts an entry of the reference where nbdev would run `show_doc`, and the entries of constants after the cell that defines them"

    reference = None

    def begin(self):
        entries = self.reference.entries.get(self.reference.module_of(self.nb.path_), {})
        done, cells = set(), []
        for c in self.nb.cells:
            cells.append(c)
            if c.cell_type != 'code' or not {'export', 'exports'} & c.directives_.keys():
                continue
            for o in ast.parse(c.source).body:
                names = (
                    [getattr(o, 'name', None)]
                    if not isinstance(o, (ast.Assign, ast.AnnAssign))
                    else [n.id for n in ast.walk(o) if isinstance(n, ast.Name)]
                )
                for name in (n for n in names if n in entries and n not in done):
                    mine = [name, *(k for k in entries if k.startswith(f'{name}.'))]
                    done |= set(mine)
                    cells += [mk_cell(entries[k], 'markdown') for k in mine]
        self.nb.cells = cells
        if missing := sorted(entries.keys() - done):
            raise ValueError(f'{self.nb.path_}: no export cell defines {", ".join(missing)}')


class Prose(Processor):
    "Links, and headings that leave the anchors of public names alone"

    reference = None

    def begin(self):
        self.module = self.reference.module_of(self.nb.path_)
        self.page, self.seen = clean_name(Path(self.nb.path_).name), Counter()

    def cell(self, cell):
        if cell.cell_type != 'markdown' or not cell.source:
            return
        names = self.reference.entries.get(self.module, {})

        def part(m):
            if slug(m[1]) not in names or '{#' in m[0]:
                return m[0]
            self.seen[m[1]] += 1
            return f'{m[0]} {{#about-{slug(m[1])}{f"-{self.seen[m[1]]}" if self.seen[m[1]] > 1 else ""}}}'

        text = re.sub(r'^#{2,4} (.+)$', part, cell.source, flags=re.M)
        cell.source = pages_only(self.reference.linkify(text, self.page, self.module))


def plain_front(cell):
    "The page has its clean name already"
    if cell.cell_type == 'raw' and cell.source:
        cell.source = re.sub(r'^output-file:.*\n', '', cell.source, flags=re.M)


class Procs(FilterDefaults):
    def base_procs(self):
        keep = [
            o
            for o in super().base_procs()
            if o not in (exec_show_docs, add_links)
            and o.__name__ not in ('add_show_docs', 'clean_show_doc', 'insert_warning')
        ]
        return [Entries, *keep, Prose, plain_front]


def stage():
    "Everything that smalldocs reads, under clean names, in STAGE"
    if STAGE.exists():
        shutil.rmtree(STAGE)
    STAGE.mkdir()
    reference = Entries.reference = Prose.reference = Reference()
    for f in notebooks():
        nb = read_nb(f)
        nb.path_ = f
        Procs()(nb)
        for c in nb.cells:
            c.metadata.pop('language', None)
        write_nb(nb, STAGE / clean_name(f.name))
    for f in [*NBS.glob('*.qmd'), *NBS.glob('*.css'), *NBS.glob('images/*'), *NBS.glob('results/*.csv')]:
        to = STAGE / f.relative_to(NBS)
        to.parent.mkdir(exist_ok=True)
        if f.suffix == '.qmd':
            to.write_text(pages_only(reference.linkify(f.read_text(), f.name)))
        else:
            shutil.copy(f, to)
    (STAGE / '_quarto.yml').write_text(
        re.sub(r'\b\w+\.ipynb', lambda m: clean_name(m[0]), (ROOT / '_quarto.yml').read_text())
    )
    return reference


def listed(entries):
    "The pages that a sidebar names"
    for o in entries:
        if isinstance(o, str):
            yield o
        elif 'href' in o:
            yield o['href']
        else:
            yield from listed(o.get('contents', []))


def check_pages():
    "Every page has a name of its own and stands in the sidebar"
    want = {o.name for o in [*notebooks(), *NBS.glob('*.qmd')]}
    if twice := [k for k, n in Counter(Path(clean_name(o)).stem for o in want).items() if n > 1]:
        sys.exit(f'more than one source for {twice[0]}.html')
    have = set(listed(yaml.safe_load((ROOT / '_quarto.yml').read_text())['website']['sidebar']['contents']))
    if want != have:
        sys.exit(
            f'_quarto.yml: the sidebar lacks {sorted(want - have)} and names {sorted(have - want)}, which is not there'
        )


def finish(reference):
    "KaTeX beside the pages, and what a reader needs of keyboard and screen reader that smalldocs leaves out"
    dist = NODE / 'katex/dist'
    for name in ('katex.min.css', 'katex.min.js', 'contrib/auto-render.min.js'):
        (OUT / KATEX / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(dist / name, OUT / KATEX / name)
    for css in OUT.glob('site_libs/themes/*.css'):
        css.write_text(re.sub(r'@import url\([^)]*\);', '', css.read_text()))  # fonts of another server
    shutil.copytree(dist / 'fonts', OUT / KATEX / 'fonts', ignore=shutil.ignore_patterns('*.ttf', '*.woff'))
    (OUT / '.nojekyll').touch()
    (OUT / 'names.json').write_text(
        json.dumps(
            {k: v.replace('.ipynb', '.html') for k, v in reference.links.items() if k.startswith('cxrlt_nb.')}, indent=0
        )
    )


def main():
    start = time.time()
    if not (NODE / 'katex').is_dir():
        sys.exit('KaTeX is missing: `make docs` fetches it with npm (apt-get install npm, or any Node 18 or later)')
    check_pages()
    reference = stage()
    layout.KATEX = KATEX
    site = Site(load(STAGE), quiet=True)
    site.out = OUT
    n = site.build()
    finish(reference)
    if site.warnings:
        sys.exit('\n'.join(site.warnings))
    print(
        f'{n} pages, {sum(map(len, reference.entries.values()))} entries, {time.time() - start:.0f} s: {OUT / "index.html"}'
    )


if __name__ == '__main__':
    main()
