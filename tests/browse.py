"""The built site as a reader sees it: `make test-docs` opens every page in Chromium at two widths, light and dark.

Set SHOTS=folder to keep a screenshot of every page in each of the four views.
"""

import functools
import html
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest
import yaml
from checkout import ROOT, copy_checkout
from fastcore.nbio import read_nb

SITE, AXE = ROOT / '_site', ROOT / 'docs/node_modules/axe-core/axe.min.js'
HOME = 'https://cxrlt-nb.github.io/cxrlt_nb/'
SIZES = dict(desktop=(1400, 900), phone=(390, 844))
SHOTS = os.environ.get('SHOTS')
SAMPLE = 'study/sample_report.html'  # The report of a study, not a page of the site
PAGES = sorted(o.relative_to(SITE).as_posix() for o in SITE.rglob('*.html') if not o.match(SAMPLE))


SCHEMES = dict(desktop=('light', 'dark'), phone=('dark', 'light'))  # The first is that in which a page is loaded


def browser_options(device):
    width, height = SIZES[device]
    options = dict(viewport=dict(width=width, height=height), color_scheme='light', device_scale_factor=1)
    options |= dict(reduced_motion='reduce')  # no colour is looked at while it fades into another
    return options | dict(is_mobile=device == 'phone', has_touch=device == 'phone')


# What is wrong with a page, seen from inside.
FAULTS = """() => {
  const faults = [], width = document.documentElement.clientWidth;
  const box = e => e.getBoundingClientRect();
  const all = selector => document.querySelectorAll(selector);
  const name = e => (e.id || e.alt || e.textContent || e.tagName).trim().slice(0, 60);
  const add = (e, fault) => faults.push(`${fault}: ${name(e)}`);
  const shown = e => e.checkVisibility();
  const scrolls = e => {
    for (; e && e !== document.body; e = e.parentElement)
      if (['auto', 'scroll'].includes(getComputedStyle(e).overflowX)) return true;
    return false;
  };
  const outside = e => shown(e) && (box(e).right > width + 1 || box(e).left < -1);
  const leaves = (a, b) => a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;

  const pageWidth = document.documentElement.scrollWidth;
  if (pageWidth > width + 1) faults.push(`the page is ${pageWidth} px wide in a window of ${width}`);
  for (const e of all('main img')) {
    if (!e.alt.trim()) add(e, 'picture without alt text');
    if (!e.naturalWidth) add(e, 'picture not loaded');
    if (outside(e) && !scrolls(e.parentElement)) add(e, 'picture cut');
  }
  for (const e of all('main svg')) {
    const named = e.closest('[aria-hidden="true"]') || e.getAttribute('aria-label') || e.querySelector('title');
    if (!named) add(e, 'diagram without a name');
    if (outside(e) && !scrolls(e.parentElement)) add(e, 'diagram cut');
    for (const t of e.querySelectorAll('text')) {
      if (leaves(box(t), box(e))) add(t, 'text of a diagram cut');
      const size = parseFloat(getComputedStyle(t).fontSize) * Math.hypot(t.getScreenCTM().a, t.getScreenCTM().b);
      if (width > 1000 && size < 11.9) add(t, `text of ${size.toFixed(1)} px, smaller than 9 pt`);
    }
  }
  for (const e of all('main table, main pre'))
    if (shown(e) && box(e).right > width + 1 && !scrolls(e)) add(e, `${e.tagName} overflows`);
  for (const e of all('main :is(p, li, h1, h2, h3, h4, figure, figcaption, details)'))
    if ((outside(e) || shown(e) && e.scrollWidth > e.clientWidth + 1) && !scrolls(e)) add(e, 'text cut');
  for (const e of all('main pre'))
    if (shown(e) && e.scrollWidth > e.clientWidth + 1) add(e, 'code cut');
  for (const e of all('main table'))
    if (shown(e) && box(e).right > box(e.parentElement).right + 1 && !scrolls(e.parentElement)) add(e, 'table cut');
  for (const e of all('main .math')) if (!e.querySelector('.katex')) add(e, 'maths not rendered');
  if (document.documentElement.classList.contains('quarto-dark'))
    for (const e of all('main .plot, main .cell-output-display svg'))
      if (getComputedStyle(e).filter === 'none' && !e.parentElement.closest('.plot'))
        add(e, 'white figure on a dark page');
  for (const e of all('.katex-error')) add(e, 'maths with an error');
  for (const e of all('main div.sourceCode pre'))
    if (!e.closest('.code-copy-outer-scaffold')?.querySelector('.code-copy-button')) add(e, 'code not to be copied');
  return faults;
}"""


class Page(HTMLParser):
    "The anchors and links of a page"

    def __init__(self, text):
        super().__init__()
        self.ids, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if attrs.get('id'):
            self.ids.append(attrs['id'])
        if tag == 'a' and attrs.get('href'):
            self.links.append(attrs['href'])


@functools.cache
def parsed():
    return {o: Page((SITE / o).read_text()) for o in PAGES}


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        if self.path != '/favicon.ico':  # Chromium asks for it on a page that names no icon
            return super().do_GET()
        self.send_response(204)
        self.end_headers()


@pytest.fixture(scope='module')
def base():
    "Serve the site on a local port"
    handler = functools.partial(QuietHandler, directory=SITE)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/'
        server.shutdown()


def watched_tab(browser, options, base):
    "A browser tab, and a list that collects errors, failed requests and requests to other servers"
    tab, faults = browser.new_context(**options, permissions=['clipboard-read', 'clipboard-write']).new_page(), []

    def on_console(message):
        if message.type == 'error':
            faults.append(f'console: {message.text}')

    def on_request(request):
        if not request.url.startswith((base, 'data:', 'blob:')):
            faults.append(f'request to another server: {request.url}')

    def on_response(response):
        if response.status >= 400:
            faults.append(f'{response.status}: {response.url}')

    tab.set_default_timeout(120_000)
    tab.on('console', on_console)
    tab.on('pageerror', lambda error: faults.append(f'error: {error}'))
    tab.on('request', on_request)
    tab.on('response', on_response)
    return tab, faults


@pytest.fixture(scope='module')
def tabs(base):
    "One watched tab per device"
    path = os.environ.get('CHROMIUM') or shutil.which('chromium') or shutil.which('google-chrome')
    if path is None:
        pytest.exit('Chromium is missing: apt-get install chromium, or set CHROMIUM=/path/to/chromium', 1)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=['--no-sandbox'])
        yield {device: watched_tab(browser, browser_options(device), base) for device in SIZES}
        browser.close()


# Scripts and fonts are loaded, and formulas are set: smalldocs sets them when the page is loaded.
READY = """() => document.fonts.status === 'loaded'
  && [...document.querySelectorAll('main .math')].every(e => e.querySelector('.katex, .katex-error'))"""


def visit(tab, url, scheme='light'):
    tab.emulate_media(color_scheme=scheme)
    tab.goto(url)  # returns when the page and all that it asks for are loaded
    tab.wait_for_function(READY)


def switch(tab, scheme):
    "What a reader sees whose system turns dark or light"
    tab.emulate_media(color_scheme=scheme)
    tab.wait_for_function(
        f'document.documentElement.classList.contains("quarto-dark") === {str(scheme == "dark").lower()}'
    )


def test_the_site_is_built():
    assert len(PAGES) > 30, 'no site in _site/: run `make docs`'


def link_fault(page, href):
    "What is wrong with a link of a page, or None"
    target, anchor = urldefrag(urljoin(f'/{page}', href))
    target = unquote(target).removeprefix('/')
    if not target or target.endswith('/'):
        target += 'index.html'
    if not (SITE / target).is_file():
        return f'{page}: {href} does not exist'
    if anchor and target in parsed() and unquote(anchor) not in parsed()[target].ids:
        return f'{page}: {href} has no such anchor'


def test_links_and_anchors():
    faults = []
    for page, o in parsed().items():
        faults += [f'{page}: two elements have the id {i!r}' for i in sorted({i for i in o.ids if o.ids.count(i) > 1})]
        local = [href for href in o.links if not href.startswith(('http:', 'https:', 'mailto:'))]
        faults += filter(None, (link_fault(page, href) for href in local))
    assert not faults, '\n' + '\n'.join(faults)


def test_a_broken_link_is_found():
    "The check above must be able to fail"
    assert link_fault('index.html', 'no_such_page.html') and link_fault('index.html', 'losses.html#no-such-anchor')
    assert not link_fault('phantom/canvas.html', '../losses.html') and not link_fault('phantom/canvas.html', '../')


def test_every_public_name_has_an_entry():
    names = json.loads((SITE / 'names.json').read_text())
    targets = {name: link.partition('#') for name, link in names.items() if '#' in link}
    missing = [name for name, (page, _, anchor) in targets.items() if anchor not in parsed()[page].ids]
    assert not missing
    assert len(targets) > 150


def test_the_comment_of_keyword_arguments_stands_beside_them():
    text = html.unescape(re.sub('<[^>]+>', '', (SITE / 'data.html').read_text()))
    assert re.search(r'\*\*kwargs, # Arguments that differ', text)


def test_a_class_is_shown_as_a_class():
    text = html.unescape(re.sub('<[^>]+>', '', (SITE / 'augment.html').read_text()))
    assert 'class Mosaic(\n    p:float=1.0' in text and 'def mosaic_crop(' in text and 'def Mosaic(' not in text


def shown_code(page):
    "The code blocks of a page that are not folded, as text"
    text = re.sub(r'<details class="code-fold">.*?</details>', '', (SITE / page).read_text(), flags=re.S)
    blocks = re.findall(r'<code class="sourceCode python">(.*?)</code>', text, re.S)
    return [html.unescape(re.sub('<[^>]+>', '', o)) for o in blocks]


def starts_of_lines(code):
    return [line.split('(')[0].split(' ')[0] for line in code.splitlines() if line[:1].strip()]


def test_long_tests_and_imports_are_folded():
    code = {page: shown_code(page) for page in PAGES}
    starts = [(page, starts_of_lines(block)) for page, blocks in code.items() for block in blocks]
    assert len(starts) > 500
    assert [page for page, o in starts if len(o) > 6 and set(o) <= {'assert', 'test_eq', 'test_close'}] == []
    notebooks = [page for page in PAGES if page not in ('index.html', 'faq.html')]
    imports = [page for page, o in starts if page in notebooks and len(o) > 4 and set(o) <= {'import', 'from'}]
    assert imports == []


def test_cells_that_say_so_are_folded_and_adjacent_tests_are_one():
    text = {page: (SITE / page).read_text() for page in PAGES}
    assert sum(o.count('<summary>Tests</summary>') for o in text.values()) > 50
    start = r'<div id="[^"]+" class="cell">\s*<details class="code-fold">\s*<summary>Tests</summary>'
    adjacent = rf'{start}((?!<div id="[^"]+" class="cell">).)*</details>\s*</div>\s*{start}'
    assert [page for page, o in text.items() if re.search(adjacent, o, re.S)] == []


def test_pages_of_results_show_no_code():
    assert shown_code('real.html') == shown_code('results.html') == shown_code('study/coverage.html') == []


def test_no_page_shows_progress_bars():
    assert [page for page in PAGES if 'cell-output-stderr' in (SITE / page).read_text()] == []


def test_plots_are_dark_on_a_dark_page_and_pictures_are_not():
    marked = {page: (SITE / page).read_text().count('<span class="plot">') for page in PAGES}
    assert marked['study/report.html'] == 5 and marked['study/evaluate_page.html'] == 4
    assert marked['cache.html'] == marked['phantom/findings.html'] == marked['index.html'] == 0


def weight(tab, base):
    "Bytes of a page and all that it loads, uncompressed"
    loaded = tab.evaluate("[location.href, ...performance.getEntriesByType('resource').map(o => o.name)]")
    names = {urldefrag(o)[0].removeprefix(base).partition('?')[0] for o in loaded if o.startswith(base)}
    files = [SITE / (name or 'index.html') for name in names]
    return sum(o.stat().st_size for o in files if o.exists())  # Chromium also asks for a favicon.ico


def test_the_start_page_is_light(base, tabs):
    "A page is less than 1 MB, see below; the first one less than 400 KB"
    tab, _ = tabs['desktop']
    visit(tab, base)
    assert 100_000 < weight(tab, base) < 400_000


def test_icons_are_in_the_reduced_font(base, tabs):
    tab, _ = tabs['desktop']
    visit(tab, base)
    widths = tab.evaluate("""() => ['.quarto-color-scheme-toggle .bi', '.bi-search', '.bi-github'].map(selector => {
        const text = getComputedStyle(document.querySelector(selector), '::before').content.slice(1, -1);
        const context = document.createElement('canvas').getContext('2d');
        return ['bootstrap-icons', 'monospace'].map(font => {
            context.font = `40px ${font}`;
            return context.measureText(text).width;
        });
    })""")
    assert all(abs(icon - 40) < 1 for icon, _ in widths), widths


def test_the_sample_report_is_linked_and_offline():
    assert 'sample_report.html' in parsed()['study/report.html'].links
    text = (SITE / SAMPLE).read_text()
    assert len(text) < 500_000 and '<script' not in text and 'phantom' in text


def test_every_page_has_a_footer():
    version = re.search(r'^version = (.+)', (ROOT / 'settings.ini').read_text(), re.M)[1]
    footers = {page: re.findall(r'<footer.*?</footer>', (SITE / page).read_text(), re.S) for page in PAGES}
    assert all(len(o) == 1 for o in footers.values())
    missing = rf'cxrlt_nb {re.escape(version)}, commit [0-9a-f]{{7,}}.*LICENSE'
    assert [page for page, (o,) in footers.items() if not re.search(missing, o, re.S)] == []


def test_the_api_index_has_a_line_for_every_name():
    names = json.loads((SITE / 'names.json').read_text()).values()
    entries = {o for o in names if '#' in o and '.' not in o.partition('#')[2]}
    lines = set(parsed()['api.html'].links)
    assert len(entries) > 150 and entries - lines == set()
    text = (SITE / 'api.html').read_text()
    assert not re.search(r'<td[^>]*>\s*</td>', text), 'a name without a line'


def test_the_api_index_names_each_thing_once():
    rows = re.findall(
        r'<tr>\s*<td[^>]*><a href="([^"]+)">.*?</td>\s*<td[^>]*>(.*?)</td>', (SITE / 'api.html').read_text(), re.S
    )
    assert len(rows) > 150 and len({link for link, _ in rows}) == len(rows)
    assert [link for link, line in rows if line == 'A constant'] == []


def test_a_page_shows_the_imports_of_its_code():
    "Folded, above the first code; not on pages of results, which show no code, nor on the first screen"
    text = {o: html.unescape(re.sub('<[^>]+>', '', (SITE / o).read_text())) for o in PAGES}
    for page, module in {'losses.html': 'losses', 'phantom/release.html': 'phantom.release'}.items():
        assert text[page].index('\nImports\n') < text[page].index(f'from cxrlt_nb.{module} import')
    assert 'from cxrlt_nb.losses import …' in text['api.html']
    assert 'from cxrlt_nb.' not in text['results.html']
    assert '\nImports\n' not in text['index.html']


def test_the_command_line_page_lists_all_options():
    text = (SITE / 'cli.html').read_text()
    commands = re.findall(r'<summary>cxrlt (\w+) --help</summary>', text)
    assert len(commands) >= 10 and '--tta-how' in text and '--checkpoint_minutes' in text
    assert [o for o in commands if f'cxrlt {o} ' not in re.sub('<[^>]+>', '', text)] == [], 'a command without example'
    assert text.rindex('<details class="options">') < text.index('How it works</h2>'), 'the code comes last'


def test_pictures_of_twice_the_resolution_have_the_usual_size():
    widths = re.findall(r'<img width="(\d+)" [^>]*src="data:image/png', (SITE / 'data.html').read_text())
    assert len(widths) >= 3 and all(300 < int(o) < 800 for o in widths), widths


def test_no_page_shows_a_stray_message():
    found = re.compile(
        r'Could not do one pass in your dataloader|\w+Warning: |np\.float64\(\d|PosixPath\(|&lt;function |/tmp/'
    )
    assert [o for o in PAGES if found.search((SITE / o).read_text())] == []


@pytest.fixture(scope='module')
def for_quarto(tmp_path_factory):
    "What `nbdev-docs` would hand to Quarto: name → cells"
    to = copy_checkout(tmp_path_factory.mktemp('quarto'))
    (to / 'nbs/_quarto.yml').symlink_to('../_quarto.yml')
    command = [Path(sys.executable).parent / 'nbdev-proc-nbs']
    ran = subprocess.run(command, cwd=to, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    made = to / '_proc'
    return {o.relative_to(made).as_posix(): read_nb(o).cells for o in made.rglob('*.ipynb')}


@pytest.mark.xdist_group('quarto')
def test_nbdev_prepares_the_same_pages_for_quarto(for_quarto):
    sources = {o.relative_to(ROOT / 'nbs').as_posix() for o in ROOT.glob('nbs/**/*.ipynb')}
    assert for_quarto.keys() == sources
    front = {name: yaml.safe_load(cells[0].source.strip('-\n')) for name, cells in for_quarto.items()}
    assert all(o['title'] and o['description'] for o in front.values())
    pages = [(Path(name).parent / o['output-file']).as_posix() for name, o in front.items()]
    pages += [f'{o.stem}.html' for o in ROOT.glob('nbs/*.qmd')]
    assert sorted(pages) == PAGES


@pytest.mark.xdist_group('quarto')
def test_nbdevs_links_for_quarto_lead_to_our_entries(for_quarto):
    text = '\n'.join(c.source or '' for cells in for_quarto.values() for c in cells)
    links = {o.lower() for o in re.findall(rf'\({re.escape(HOME)}([^)]+)\)', text)}
    entries = {o.lower() for o in json.loads((SITE / 'names.json').read_text()).values()}  # Quarto's anchors
    private = {o for o in links if '#_' in o}  # nbdev links private names too, which have no entry
    assert links and links - private <= entries


COLOURS = ['color-contrast', 'link-in-text-block']
PHONE_BAR = '#quarto-header'


def axe_runs(device, first):
    """(Part of a page, axe's options). Another scheme changes only colours, and the colours of a phone are those of the
    desktop, except in the bar that only a phone has: so colours, which take most of the time, are not checked twice."""
    colours, rest = dict(runOnly=COLOURS), dict(rules={o: dict(enabled=False) for o in COLOURS})
    if device == 'desktop':
        return [('body', {} if first else colours)]
    return [(PHONE_BAR, colours), *([('body', rest)] if first else [])]


def accessibility_faults(tab, device, first):
    "Serious violations that axe finds"
    found = []
    for part, options in axe_runs(device, first):
        if tab.locator(part).count():
            call = '([part, options]) => axe.run(part === "body" ? document : part, options)'
            found += tab.evaluate(call, [part, options | dict(resultTypes=['violations'])])['violations']
    serious = [o for o in found if o['impact'] in ('serious', 'critical')]
    return [f'axe {o["id"]}: {node["html"][:110]}' for o in serious for node in o['nodes'][:3]]


def is_switchable(page):
    return page != SAMPLE  # The report follows the system with CSS alone


@pytest.mark.parametrize('page', [*PAGES, SAMPLE])
def test_page(page, base, tabs):
    bad = []
    for device, (tab, faults) in tabs.items():
        faults.clear()
        for n, scheme in enumerate(SCHEMES[device]):
            if n == 0:
                visit(tab, base + page, scheme)
                if (size := weight(tab, base)) > 1_000_000:
                    bad.append(f'{device}: the page and what it loads are {size:,} bytes')
                tab.add_script_tag(path=AXE)
            elif is_switchable(page):
                switch(tab, scheme)
            else:
                tab.emulate_media(color_scheme=scheme)
            found = tab.evaluate(FAULTS) + accessibility_faults(tab, device, first=n == 0)
            bad += [f'{device}, {scheme}: {o}' for o in found]
            if SHOTS:
                name = f'{page[:-5].replace("/", "-")}-{device}-{scheme}.jpg'
                tab.screenshot(path=Path(SHOTS) / name, full_page=True, type='jpeg', quality=70)
        bad += [f'{device}: {o}' for o in faults]
    assert not bad, '\n' + '\n'.join(bad)


def search(tab, query):
    "The addresses that a search finds, best first"
    tab.locator('input[type=search]:visible').fill('')
    tab.locator('input[type=search]:visible').fill(query)
    tab.locator(f'.search-result mark >> text=/{query.split()[0]}/i').first.wait_for()
    return [o.get_attribute('href').removeprefix('./') for o in tab.locator('.search-result').all()]


# What must come first, as a page or one of its sections.
QUERIES = {
    'mosaic': ['augment.html'],
    'focal loss': ['losses.html'],
    'threshold': ['faq.html', 'metrics.html'],
    'patient folds': ['folds.html'],
    'DICOM': ['images.html', 'own_data.html', 'faq.html'],
    'predict': ['predict.html'],
    'predict one image': ['predict.html', 'ten_minutes.html'],
    'GPU': ['distributed.html', 'cluster.html'],
    'resume': ['faq.html', 'learner.html'],
    'bootstrap': ['intervals.html'],  # a name of the package, as it is written
    'Metric': ['metrics.html'],
    'loss custom': ['losses.html', 'contributing.html', 'faq.html'],  # no page has both words
}


@pytest.mark.parametrize('query', QUERIES)
def test_search_has_the_right_page_first(query, base, tabs):
    tab, _ = tabs['desktop']
    visit(tab, base)
    hits = search(tab, query)
    assert hits[0].partition('#')[0] in QUERIES[query]


def test_search_finds_terms_and_questions_one_by_one(base, tabs):
    tab, _ = tabs['desktop']
    visit(tab, base)
    assert 'glossary.html#term-squish' in search(tab, 'squish')
    assert search(tab, 'thresholds')[0].startswith('faq.html#which-threshold')
    tab.locator('.search-result').first.click()
    tab.wait_for_url('**/faq.html#which-threshold*')


@pytest.mark.parametrize('device', SIZES)
def test_search_panel_is_not_cut(device, base, tabs):
    tab, _ = tabs[device]
    visit(tab, base)
    if device == 'phone':
        tab.locator('.quarto-btn-toggle:visible').first.click()
        tab.wait_for_timeout(400)  # The sidebar slides in
    search(tab, 'mosaic')
    left, top, right, bottom = tab.evaluate("""() => {
        const o = document.querySelector('.smalldocs-search-results').getBoundingClientRect();
        return [o.left, o.top, o.right, o.bottom];
    }""")
    width, height = SIZES[device]
    assert 0 <= left and right <= width and 0 <= top and bottom <= height
    assert right - left >= min(500, width - 60)
    inside = """([x, y]) => !!document.elementFromPoint(x, y).closest('.smalldocs-search-results')"""
    corners = [(x, y) for x in (left + 4, right - 4) for y in (top + 4, bottom - 4)]
    assert all(tab.evaluate(inside, o) for o in corners), 'something covers the panel'


def test_search_works_from_a_file_system(tabs):
    tab, _ = tabs['desktop']
    tab.goto((SITE / 'study/table2.html').as_uri())
    assert '../augment.html' in search(tab, 'mosaic')[0]


@pytest.mark.parametrize('device', SIZES)
def test_the_first_screen_says_what_it_is(device, base, tabs):
    "Three sentences, a picture, two commands and the result, without scrolling"
    tab, _ = tabs[device]
    visit(tab, base)
    bottom = {
        'sentences': tab.get_by_text('cxrlt_nb trains and scores classifiers'),
        'picture': tab.locator('img[src*="strip.webp"]'),
        'commands': tab.locator('pre', has_text='make study').first,
        'result': tab.get_by_text('on public radiographs with small models'),
    }
    boxes = {name: o.bounding_box() for name, o in bottom.items()}
    assert {name: o['y'] + o['height'] for name, o in boxes.items() if o['y'] + o['height'] > SIZES[device][1]} == {}
    goals = tab.locator('table', has_text='I want to').first
    assert goals.locator('tr').count() >= 6 and goals.locator('a').count() >= 10


def test_sidebar_on_a_phone(base, tabs):
    tab, _ = tabs['phone']
    visit(tab, base)
    side = tab.locator('#quarto-sidebar')
    is_open = 'document.querySelector("#quarto-sidebar").getBoundingClientRect().right > 100'
    assert not tab.evaluate(is_open)
    tab.locator('.quarto-btn-toggle:visible').first.click()
    tab.wait_for_function(is_open)
    link = side.locator('a[href="losses.html"]')
    if not link.is_visible():
        side.get_by_text('API', exact=True).click()
    link.click()
    tab.wait_for_url('**/losses.html')


def test_sidebar_leads_from_one_folder_to_another(base, tabs):
    tab, _ = tabs['desktop']
    visit(tab, f'{base}phantom/canvas.html')
    link = tab.locator('#quarto-sidebar a[href="../study/report.html"]')
    if not link.is_visible():
        tab.locator('#quarto-sidebar').get_by_text('Results', exact=True).first.click()
    link.click()
    tab.wait_for_url('**/study/report.html')
    assert tab.locator('h1').inner_text()


def test_folded_code_can_be_opened(base, tabs):
    folded = [o for o in PAGES if '<details class="code-fold">' in (SITE / o).read_text()]
    if not folded:
        pytest.skip('no notebook has a folded cell')
    tab, _ = tabs['phone']
    visit(tab, base + folded[0])
    details = tab.locator('details.code-fold').first
    code = details.locator('pre').first
    assert not code.is_visible()
    details.locator('summary').click()
    code.wait_for(state='visible')


def test_code_can_be_copied(base, tabs):
    tab, _ = tabs['desktop']
    visit(tab, f'{base}index.html')
    block = tab.locator('.code-copy-outer-scaffold').first
    block.hover()
    block.locator('.code-copy-button').click()
    tab.wait_for_selector('.code-copy-button-checked')
    copied = tab.evaluate('navigator.clipboard.readText()').strip()
    assert copied == block.locator('pre code').inner_text().strip() != ''


def test_the_reader_chooses_light_or_dark(base, tabs):
    tab, _ = tabs['desktop']
    visit(tab, base)
    is_dark = 'document.documentElement.classList.contains("quarto-dark")'
    assert not tab.evaluate(is_dark)
    tab.locator('.quarto-color-scheme-toggle:visible').first.click()
    tab.wait_for_function(is_dark)
    visit(tab, f'{base}faq.html')
    assert tab.evaluate(is_dark)
    tab.evaluate('localStorage.clear()')
