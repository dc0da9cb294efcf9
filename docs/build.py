"""Build the site into _site/ without running any notebook.

`reference` makes an entry for each public name, `cells` prepares the notebooks, `search` makes the index, and smalldocs
renders the pages with the same _quarto.yml that Quarto reads. KaTeX is copied from docs/node_modules: no page needs
another server.
"""

import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from configparser import ConfigParser
from pathlib import Path

import yaml
from cells import FINISHING, Entries, Procs, Prose, add_imports, fold_cells
from fastcore.nbio import mk_cell, read_nb, write_nb
from fontTools import subset
from fontTools.ttLib import TTFont
from reference import NBS, REPOSITORY, ROOT, Reference, notebooks, page_name, page_of, relative_link, rename_links
from search import write_search
from smalldocs import layout
from smalldocs.config import load
from smalldocs.site import Site

from cxrlt_nb.study.runner import write_html

STAGE, OUT, NODE = ROOT / '_proc', ROOT / '_site', ROOT / 'docs/node_modules'
KATEX = 'site_libs/katex'
API_LIST = '<!-- the list of names: docs/build.py -->'
OPTIONS = re.compile(r'<!-- the options of (\w+): docs/build.py -->')
SAMPLE = 'study/sample_report.html'
MAX_RELATED = 6


def text_pages():
    return sorted(NBS.glob('*.qmd'))


def configuration():
    return yaml.safe_load((ROOT / '_quarto.yml').read_text())


def sidebar_pages(entries):
    "The pages that a sidebar names, in order"
    for o in entries:
        if isinstance(o, str):
            yield o
        elif 'href' in o:
            yield o['href']
        else:
            yield from sidebar_pages(o.get('contents', []))


def sections():
    "Page → the section of the sidebar that it is in"
    contents = configuration()['website']['sidebar']['contents']
    return {page_name(page): o['section'] for o in contents for page in sidebar_pages(o['contents'])}


def check_pages():
    "Every page has a name that no other page has, and is in the sidebar once"
    files = [o.relative_to(NBS).as_posix() for o in [*notebooks(), *text_pages()]]
    stems = Counter(Path(page_name(o)).stem for o in files)
    if repeated := [k for k, n in stems.items() if n > 1]:
        sys.exit(f'more than one page is called {repeated[0]!r}; rename one of the notebooks')
    sidebar = list(sidebar_pages(configuration()['website']['sidebar']['contents']))
    missing, unknown = sorted(set(files) - set(sidebar)), sorted(set(sidebar) - set(files))
    repeated = sorted(k for k, n in Counter(sidebar).items() if n > 1)
    if missing or unknown or repeated:
        sys.exit(f'sidebar of _quarto.yml: missing {missing}, unknown {unknown}, repeated {repeated}')


# What smalldocs reads


def stage_notebook(file, section, reference):
    nb, page = read_nb(file), page_of(file)
    nb.path_ = file
    nb.cells = fold_cells(nb.cells, is_result=section == 'Results')
    if section not in ('Start', 'Results'):
        add_imports(nb.cells, reference.modules.get(page))
    if page == 'cli.ipynb':
        add_options(nb.cells)
    Procs()(nb)
    for cell in nb.cells:
        cell.metadata.pop('language', None)
    to = STAGE / page
    to.parent.mkdir(exist_ok=True)
    write_nb(nb, to)


def options_of(command):
    "The help of a command, folded"
    ask = [Path(sys.executable).parent / 'cxrlt', command, '--help']
    env = os.environ | dict(COLUMNS='90')
    text = subprocess.run(ask, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
    summary = f'<summary>cxrlt {command} --help</summary>'
    return f'<details class="options">{summary}\n\n<pre>{html.escape(text)}</pre>\n\n</details>\n'


def add_options(cells):
    "Fill in the options of each command"
    for cell in cells:
        if cell.cell_type == 'markdown':
            cell.source = OPTIONS.sub(lambda m: options_of(m[1]), cell.source)


def include(m):
    "The text of a file at the top of the repository, without its title and with links that work on the site"
    text = (NBS / m[1]).read_text().partition('\n')[2]
    text = re.sub(r'\]\(nbs/([\w/]+\.(?:ipynb|qmd))', r'](\1', text)
    return re.sub(r'\]\((?!https?:|#)([\w./-]+)(?<!\.ipynb)(?<!\.qmd)\)', rf']({REPOSITORY}/\1)', text)


def stage_text(file, reference):
    text = re.sub(r'\{\{< include (\S+) >\}\}', include, file.read_text())
    if file.stem == 'glossary':  # Each term gets an anchor, which search needs
        text = re.sub(r'^\*\*(.+?)\.\*\*', lambda m: f'[{m[0]}]{{#{term_id(m[1])}}}', text, flags=re.M)
    text = with_version(rename_links(reference.linkify(text, file.name)))
    (STAGE / file.name).write_text(text.replace(API_LIST, reference.index()))


def term_id(term):
    return 'term-' + re.sub(r'\W+', '-', term.lower()).strip('-')


def with_version(text):
    "Fill in version and commit, as Quarto would from _variables.yml"
    settings = ConfigParser(delimiters=['='], interpolation=None)
    settings.read(ROOT / 'settings.ini')
    ran = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=ROOT, capture_output=True, text=True)
    text = text.replace('{{< var version >}}', settings['DEFAULT']['version'])
    return text.replace('{{< var commit >}}', ran.stdout.strip() or 'unknown')


def stage_configuration():
    text = re.sub(r'[\w/]+\.ipynb', lambda m: page_name(m[0]), (ROOT / '_quarto.yml').read_text())
    (STAGE / '_quarto.yml').write_text(with_version(text))


def stage():
    "Write everything that smalldocs reads, under its name on the site, into STAGE"
    if STAGE.exists():
        shutil.rmtree(STAGE)
    STAGE.mkdir()
    reference = Entries.reference = Prose.reference = Reference()
    section_of = sections()
    for file in notebooks():
        stage_notebook(file, section_of[page_of(file)], reference)
    for file in text_pages():
        stage_text(file, reference)
    for file in [*NBS.glob('*.css'), *NBS.glob('images/*'), *NBS.glob('results/*.csv')]:
        to = STAGE / file.relative_to(NBS)
        to.parent.mkdir(exist_ok=True)
        shutil.copy(file, to)
    stage_configuration()
    add_related(section_of)
    return reference


# Related pages


def prose_of(file):
    if file.suffix == '.qmd':
        return file.read_text()
    return '\n'.join(c.source for c in read_nb(file).cells if c.cell_type != 'code' and c.source)


def title_of(text):
    return yaml.safe_load(text.split('---')[1])['title']


def links_of(page, text):
    "The other pages of the site that a page links to"
    links = re.findall(r'\]\(([\w./-]+\.(?:ipynb|qmd))', text)
    return Counter(os.path.normpath(Path(page).parent / o) for o in links if o != page)


def add_related(section_of):
    "End each page with links to those that refer to it or that it refers to; pages that list everything do not count"
    texts = {page: prose_of(STAGE / page) for page in section_of}
    lists = ('index.ipynb', 'api.qmd', 'contributing.qmd', 'changelog.qmd', 'glossary.qmd')
    links = {page: links_of(page, text) for page, text in texts.items() if page not in lists}
    for page in links:
        count = {o: links[o][page] + links[page][o] for o in links if o != page and links[o][page] + links[page][o]}
        best = sorted(count, key=count.get, reverse=True)[:MAX_RELATED]
        if not best:
            continue
        named = [f'[{title_of(texts[o])}]({relative_link(o, page)})' for o in best]
        line = f'::: {{.related}}\nRelated pages: {" · ".join(named)}\n:::'
        if page.endswith('.qmd'):
            (STAGE / page).write_text(f'{(STAGE / page).read_text().rstrip()}\n\n{line}\n')
        else:
            nb = read_nb(STAGE / page)
            nb.cells.append(mk_cell(line, 'markdown'))
            write_nb(nb, STAGE / page)


# The site


def sample_report():
    "The report that `make study` writes, from the committed results"
    write_html(NBS / 'study/04_report.ipynb', OUT / SAMPLE, 'Table 2: study report (sample)')


def copy_katex():
    dist = NODE / 'katex/dist'
    for name in ('katex.min.css', 'katex.min.js', 'contrib/auto-render.min.js'):
        (OUT / KATEX / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(dist / name, OUT / KATEX / name)
    shutil.copytree(dist / 'fonts', OUT / KATEX / 'fonts', ignore=shutil.ignore_patterns('*.ttf', '*.woff'))


def keep_used_icons():
    "Reduce the icon font, which every page loads, to the icons that the site shows: 3 KB instead of 130"
    folder = OUT / 'site_libs/bootstrap-icons'
    css, font = folder / 'bootstrap-icons.min.css', folder / 'fonts/bootstrap-icons.woff'
    users = [*OUT.rglob('*.html'), *OUT.glob('site_libs/*.js'), *OUT.glob('site_libs/*.css')]
    used = {name for o in users for name in re.findall(r'bi-([a-z0-9-]+)', o.read_text())}
    rule = re.compile(r'\.bi-([a-z0-9-]+)::before\{content:"\\([0-9a-f]+)"\}')
    codes = {name: code for name, code in rule.findall(css.read_text()) if name in used}
    styles = ''.join(o.read_text() for o in OUT.glob('site_libs/*.css'))  # They use some icons by their code
    by_code = re.findall(r'content: *"\\(f[0-9a-f]{3})"', styles)
    small = subset.Subsetter()
    small.populate(unicodes=[int(o, 16) for o in [*codes.values(), *by_code]])
    with TTFont(font) as icons:
        small.subset(icons)
        icons.save(font)
    text = rule.sub(lambda m: m[0] if m[1] in codes else '', css.read_text())
    css.write_text(re.sub(r'url\("[^"]+woff2[^"]*"\) format\("woff2"\),', '', text))
    (folder / 'fonts/bootstrap-icons.woff2').unlink()


def keep_used_styles():
    "Reduce the style sheets to the rules that a page or a script can use: 110 KB instead of 500"
    sheets = [*OUT.glob('site_libs/themes/*.css'), OUT / 'site_libs/smalldocs.css']
    users = [*OUT.rglob('*.html'), *OUT.glob('site_libs/**/*.js')]
    with tempfile.TemporaryDirectory() as folder:
        command = [NODE / '.bin/purgecss', '--output', folder, '--css', *sheets, '--content', *users]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for sheet in sheets:
            shutil.copy(Path(folder) / sheet.name, sheet)


def finish(reference):
    "Make the pages independent of other servers, and list the public names for the tests"
    copy_katex()
    for page in OUT.rglob('*.html'):
        text = page.read_text()
        for change in FINISHING:
            text = change(text)
        page.write_text(text)
    for page in OUT.glob('*/*.html'):  # smalldocs has one address of KaTeX for pages in every folder
        page.write_text(page.read_text().replace(f'="{KATEX}/', f'="../{KATEX}/'))
    for css in OUT.glob('site_libs/themes/*.css'):  # Themes import fonts from another server
        css.write_text(re.sub(r'@import url\([^)]*\);', '', css.read_text()))
    keep_used_icons()
    keep_used_styles()
    sample_report()
    (OUT / '.nojekyll').touch()
    names = {k: v.replace('.ipynb', '.html') for k, v in reference.links.items() if k.startswith('cxrlt_nb.')}
    (OUT / 'names.json').write_text(json.dumps(names, indent=0))


def main():
    start = time.time()
    if missing := [o for o in ('katex', 'purgecss') if not (NODE / o).is_dir()]:
        sys.exit(f'{missing[0]} is missing: `make docs` fetches it with npm (apt-get install npm, or Node 18 or later)')
    check_pages()
    reference = stage()
    layout.KATEX = KATEX
    site = Site(load(STAGE), quiet=True)
    site.out = OUT
    n = site.build()
    finish(reference)
    write_search(site, sections(), OUT)
    if broken := [o for o in site.warnings if Path(SAMPLE).name not in o]:  # the sample is written after the check
        sys.exit('\n'.join(broken))
    entries = sum(map(len, reference.entries.values()))
    print(f'{n} pages, {entries} entries, {time.time() - start:.0f} s: {OUT / "index.html"}')


if __name__ == '__main__':
    main()
