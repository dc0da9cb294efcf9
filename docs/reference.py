"""The reference: an entry with signature, parameters and docstring for every public name of the package.

The entries are read from the imported package, not from the notebooks, so that no notebook is executed.
"""

import ast
import inspect
import os
import re
from collections import Counter
from importlib import import_module
from pathlib import Path
from pprint import pformat

from fastcore.nbio import read_nb
from nbdev.config import nbpath2html

# nbdev has no public way to ask for a notebook's module.
from nbdev.processors import _default_exp
from nbdev.showdoc import show_doc

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / 'nbs'
REPOSITORY = 'https://github.com/cxrlt-nb/cxrlt_nb/blob/main'
MAX_CONSTANT_LINES = 12
MAX_CONSTANT_COLUMNS = 200  # Of an entry on one line, which the page wraps
FOR_YOUR_CODE = ('losses', 'augment', 'folds', 'metrics', 'intervals', 'predict', 'evaluate', 'data', 'learner')


def notebooks():
    return sorted(o for o in NBS.rglob('*.ipynb') if not any(part.startswith(('.', '_')) for part in o.parts))


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


def heading(name, file, line, level):
    "The heading of an entry, with a link to the line that defines the name"
    url = f'{REPOSITORY}/{Path(file).relative_to(ROOT).as_posix()}#L{line}'
    link = f'[source]({url}){{.source-link aria-label="source of {name}"}}'
    return f'{"#" * level} {name} {{#{name} .api}}\n\n{link}\n\n'


def with_comment_of_kwargs(text, obj):
    "fastcore gives the comment of a last `**kwargs` to what is returned, or drops it; put it back"
    function = obj.__init__ if inspect.isclass(obj) else obj
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        return text
    if not re.search(r'^\s*\)( -> .*)?:  # ', source, re.M):  # nothing is said about what is returned
        return re.sub(r'^(\s*\*\*\w+[^\n]*)\n(\).*?:) # (.*)$', r'\1, # \3\n\2', text, flags=re.M)
    if not (comment := re.search(r'^\s*\*\*\w+[^\n#]*# (.*)$', source, re.M)):
        return text
    return re.sub(r'^(\s*\*\*\w+(?::\w+)?)$', lambda m: f'{m[1]}, # {comment[1]}', text, flags=re.M)


def callable_entry(mod, name, obj, line, level):
    "The entry of a function, class or method: nbdev's own, under our heading"
    text = with_comment_of_kwargs(show_doc(obj, name=name)._repr_markdown_(), obj)
    text = text.replace(':NoneType=None', '=None')  # fastcore's type of a parameter that has none
    if inspect.isclass(obj):
        text = text.replace(f'```python\ndef {name}(', f'```python\nclass {name}(', 1)
    if text.rstrip().endswith('```'):  # nothing after the signature
        raise ValueError(f'{mod.__name__}: {name} has no docstring, so its entry on the site would be empty')
    return heading(name, mod.__file__, line, level) + text.split(f'### {name}\n\n', 1)[1]


def comment_above(line, source):
    "The `#:` comment above a line, as one text"
    comment = []
    while (above := source[line - 2 - len(comment)]).startswith('#:'):
        comment.insert(0, above[2:].strip())
    return ' '.join(comment)


def entry_lines(value):
    "A dict with one entry per line, and so each dict in it; `pformat` would indent what does not fit far to the right"
    lines = ['{']
    for name, o in value.items():
        inner = [f'        {k!r}: {v!r},' for k, v in o.items()] if isinstance(o, dict) else []
        lines += [f'    {name!r}: {{', *inner, '    },'] if inner else [f'    {name!r}: {o!r},']
    return [*lines, '}']


def value_lines(mod, name, node, text):
    "The value of a constant: as its module writes it where that is a literal, else as Python prints it"
    written = ast.get_source_segment(text, node.value)
    if isinstance(node.value, (ast.Dict, ast.List, ast.Tuple)) and len(written) > len('{}'):
        return written.split('\n')
    value = getattr(mod, name)
    lines = pformat(value, width=80 - len(name), sort_dicts=False).split('\n')
    indent = ' ' * (len(name) + 3)
    if isinstance(value, dict) and len(lines) > len(value):
        entries = entry_lines(value)
        if max(map(len, entries[:MAX_CONSTANT_LINES])) <= MAX_CONSTANT_COLUMNS:
            lines, indent = entries, ''
    first, *rest = re.sub(r'<(?:function|ufunc) \'?(\w+)\'?(?: at 0x\w+)?>', r'\1', '\n'.join(lines)).split('\n')
    return [first, *(indent + o for o in rest)]


def constant_entry(mod, name, node, text):
    "The entry of a constant: its value and the `#:` comment above it"
    comment = comment_above(node.lineno, text.split('\n'))
    lines = value_lines(mod, name, node, text)
    shown = lines[:MAX_CONSTANT_LINES] + ['# …'] * (len(lines) > MAX_CONSTANT_LINES)
    entry = heading(name, mod.__file__, node.lineno, 3) + f'```python\n{name} = {chr(10).join(shown)}\n```'
    return entry + (f'\n\n*{comment}*' if comment else '')


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
                yield name, constant_entry(mod, name, node, text)


def summaries(mod):
    "(name, first sentence of its documentation), for everything in `__all__`"
    text = Path(mod.__file__).read_text()
    for node in ast.parse(text).body:
        if getattr(node, 'name', None) in mod.__all__:
            yield node.name, (inspect.getdoc(getattr(mod, node.name)) or '').split('\n')[0]
        for name in assigned_names(node):
            if name in mod.__all__:
                yield name, comment_above(node.lineno, text.split('\n')).split('. ')[0].rstrip('.') or 'A constant'


def assigned_names(node):
    if not isinstance(node, (ast.Assign, ast.AnnAssign)):
        return []
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    targets = [o for o in targets if not isinstance(o, ast.Subscript)]  # a new entry of a dict is not a new name
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

    def index(self):
        "The page that lists every public name, with one line each: first what is of use in other projects"
        rank = {module: (module not in FOR_YOUR_CODE, '.' in module) for module in self.pages}
        return '\n\n'.join(filter(None, map(self.module_index, sorted(self.pages, key=rank.get))))

    def module_index(self, module):
        "The part of that page about one module; nothing if it has no public name"
        page, lines = self.pages[module], list(summaries(import_module(f'cxrlt_nb.{module}')))
        rows = [f'| [`{name}`]({page}#{name}) | {line.replace("|", chr(92) + "|")} |' for name, line in lines]
        head = [
            f'## [{module}]({page})',
            '',
            f'`from cxrlt_nb.{module} import …`',
            '',
            '| name | what it is |',
            '|---|---|',
        ]
        return '\n'.join([*head, *rows]) if rows else ''

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
