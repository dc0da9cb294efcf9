"""The built site as a reader sees it: `make test-docs` opens every page in Chromium at two widths, light and dark.

Set SHOTS=1 to keep a screenshot of every view in _site_shots/ (SHOTS=full: of the whole page).
"""

import functools
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
SIZES = dict(desktop=(1280, 900), phone=(390, 844))
SHOTS = os.environ.get('SHOTS')
PAGES = sorted(o.relative_to(SITE).as_posix() for o in SITE.rglob('*.html'))


def browser_options(device, scheme):
    width, height = SIZES[device]
    options = dict(viewport=dict(width=width, height=height), color_scheme=scheme, device_scale_factor=1)
    return options | dict(is_mobile=device == 'phone', has_touch=device == 'phone')


VIEWS = {f'{device}-{scheme}': browser_options(device, scheme) for device in SIZES for scheme in ('light', 'dark')}

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
    if (outside(e)) add(e, 'picture cut');
  }
  for (const e of all('main svg')) {
    const named = e.closest('[aria-hidden="true"]') || e.getAttribute('aria-label') || e.querySelector('title');
    if (!named) add(e, 'diagram without a name');
    if (outside(e) && !scrolls(e.parentElement)) add(e, 'diagram cut');
    for (const t of e.querySelectorAll('text')) if (leaves(box(t), box(e))) add(t, 'text of a diagram cut');
  }
  for (const e of all('main table, main pre'))
    if (shown(e) && box(e).right > width + 1 && !scrolls(e)) add(e, `${e.tagName} overflows`);
  for (const e of all('main .math')) if (!e.querySelector('.katex')) add(e, 'maths not rendered');
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
def views(base):
    "One watched tab per view"
    path = os.environ.get('CHROMIUM') or shutil.which('chromium') or shutil.which('google-chrome')
    if path is None:
        pytest.exit('Chromium is missing: apt-get install chromium, or set CHROMIUM=/path/to/chromium', 1)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=['--no-sandbox'])
        yield {name: watched_tab(browser, options, base) for name, options in VIEWS.items()}
        browser.close()


def visit(tab, url):
    tab.goto(url)
    tab.wait_for_load_state('networkidle')
    tab.evaluate('document.fonts.ready')


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


def test_long_tests_are_folded():
    "A cell with `#| code-fold: true` is a closed <details> with the summary that the cell gives"
    folded = 0
    for file in ROOT.glob('nbs/**/*.ipynb'):
        folded += sum('#| code-fold: true' in c.source for c in read_nb(file).cells if c.cell_type == 'code')
    shown = sum((SITE / page).read_text().count('<details class="code-fold">') for page in PAGES)
    assert shown == folded


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


def test_nbdev_prepares_the_same_pages_for_quarto(for_quarto):
    sources = {o.relative_to(ROOT / 'nbs').as_posix() for o in ROOT.glob('nbs/**/*.ipynb')}
    assert for_quarto.keys() == sources
    front = {name: yaml.safe_load(cells[0].source.strip('-\n')) for name, cells in for_quarto.items()}
    assert all(o['title'] and o['description'] for o in front.values())
    pages = [(Path(name).parent / o['output-file']).as_posix() for name, o in front.items()]
    pages += [f'{o.stem}.html' for o in ROOT.glob('nbs/*.qmd')]
    assert sorted(pages) == PAGES


def test_nbdevs_links_for_quarto_lead_to_our_entries(for_quarto):
    text = '\n'.join(c.source or '' for cells in for_quarto.values() for c in cells)
    links = {o.lower() for o in re.findall(rf'\({re.escape(HOME)}([^)]+)\)', text)}
    entries = {o.lower() for o in json.loads((SITE / 'names.json').read_text()).values()}  # Quarto's anchors
    private = {o for o in links if '#_' in o}  # nbdev links private names too, which have no entry
    assert links and links - private <= entries


def accessibility_faults(tab):
    "Serious violations that axe finds"
    tab.add_script_tag(path=AXE)
    found = tab.evaluate('axe.run(document, {resultTypes: ["violations"]})')['violations']
    serious = [o for o in found if o['impact'] in ('serious', 'critical')]
    return [f'axe {o["id"]}: {node["html"][:110]}' for o in serious for node in o['nodes'][:3]]


@pytest.mark.parametrize('page', PAGES)
def test_page(page, base, views):
    bad = []
    for view, (tab, faults) in views.items():
        faults.clear()
        visit(tab, base + page)
        found = [*faults, *tab.evaluate(FAULTS), *accessibility_faults(tab)]
        bad += [f'{view}: {o}' for o in found]
        if SHOTS:
            file = ROOT / '_site_shots' / f'{page[:-5].replace("/", "-")}-{view}.png'
            tab.screenshot(path=file, full_page=SHOTS == 'full')
    assert not bad, '\n' + '\n'.join(bad)


def test_search_finds_mosaic(base, views):
    tab, _ = views['desktop-light']
    visit(tab, base)
    tab.locator('input[type=search]:visible').fill('Mosaic')
    hits = tab.locator('.smalldocs-search a:visible')
    hits.first.wait_for()
    first = [o for o in hits.all()[:3] if 'augment.html' in o.get_attribute('href')]
    assert first
    first[0].click()
    tab.wait_for_url('**/augment.html*')
    assert 'Mosaic' in tab.inner_text('main')


def test_sidebar_on_a_phone(base, views):
    tab, _ = views['phone-light']
    visit(tab, base)
    side = tab.locator('#quarto-sidebar')
    is_open = 'document.querySelector("#quarto-sidebar").getBoundingClientRect().right > 100'
    assert not tab.evaluate(is_open)
    tab.locator('.quarto-btn-toggle:visible').first.click()
    tab.wait_for_function(is_open)
    link = side.locator('a[href="losses.html"]')
    if not link.is_visible():
        side.get_by_text('Augmentation and loss').click()
    link.click()
    tab.wait_for_url('**/losses.html')


def test_sidebar_leads_from_one_folder_to_another(base, views):
    tab, _ = views['desktop-light']
    visit(tab, f'{base}phantom/canvas.html')
    link = tab.locator('#quarto-sidebar a[href="../study/report.html"]')
    if not link.is_visible():
        tab.locator('#quarto-sidebar').get_by_text('Study machinery').click()
    link.click()
    tab.wait_for_url('**/study/report.html')
    assert tab.locator('h1').inner_text()


def test_folded_code_can_be_opened(base, views):
    folded = [o for o in PAGES if '<details class="code-fold">' in (SITE / o).read_text()]
    if not folded:
        pytest.skip('no notebook has a folded cell')
    tab, _ = views['phone-light']
    visit(tab, base + folded[0])
    details = tab.locator('details.code-fold').first
    code = details.locator('pre').first
    assert not code.is_visible()
    details.locator('summary').click()
    code.wait_for(state='visible')


def test_code_can_be_copied(base, views):
    tab, _ = views['desktop-light']
    visit(tab, f'{base}index.html')
    block = tab.locator('.code-copy-outer-scaffold').first
    block.hover()
    block.locator('.code-copy-button').click()
    tab.wait_for_selector('.code-copy-button-checked')
    copied = tab.evaluate('navigator.clipboard.readText()').strip()
    assert copied == block.locator('pre code').inner_text().strip() != ''


def test_the_reader_chooses_light_or_dark(base, views):
    tab, _ = views['desktop-light']
    visit(tab, base)
    is_dark = 'document.documentElement.classList.contains("quarto-dark")'
    assert not tab.evaluate(is_dark)
    tab.locator('.quarto-color-scheme-toggle:visible').first.click()
    tab.wait_for_function(is_dark)
    visit(tab, f'{base}faq.html')
    assert tab.evaluate(is_dark)
    tab.evaluate('localStorage.clear()')
