"""The built site, read as a person reads it: `make test-docs`. Every page in Chromium at two widths, light and dark.

Screenshots of every view are left in _site_shots/ when SHOTS=1 is set.
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
from checkout import copy_checkout
from fastcore.nbio import read_nb
from readme import ROOT

SITE, AXE = ROOT / '_site', ROOT / 'docs/node_modules/axe-core/axe.min.js'
VIEWS = {
    f'{w}-{s}': dict(
        viewport=dict(width=x, height=y),
        color_scheme=s,
        device_scale_factor=1,
        is_mobile=w == 'phone',
        has_touch=w == 'phone',
    )
    for w, x, y in [('desktop', 1280, 900), ('phone', 390, 844)]
    for s in ('light', 'dark')
}
PAGES = sorted(o.name for o in SITE.glob('*.html'))
SHOTS = ROOT / '_site_shots' if os.environ.get('SHOTS') else None

# What a page looks like from inside, as a list of faults.
LOOK = """() => {
  const out = [], W = document.documentElement.clientWidth, box = e => e.getBoundingClientRect(), say = (e, why) => out.push(`${why}: ${(e.id || e.alt || e.textContent || e.tagName).trim().slice(0, 60)}`);
  const shown = e => e.checkVisibility(), scrolls = e => { for (; e && e !== document.body; e = e.parentElement) if (['auto', 'scroll'].includes(getComputedStyle(e).overflowX)) return true; return false };
  if (document.documentElement.scrollWidth > W + 1) out.push(`the page is ${document.documentElement.scrollWidth} px wide in a window of ${W}`);
  for (const e of document.querySelectorAll('main img')) {
    if (!e.alt.trim()) say(e, 'picture without alt text');
    if (!e.naturalWidth) say(e, 'picture not loaded');
    if (shown(e) && (box(e).right > W + 1 || box(e).left < -1)) say(e, 'picture cut');
  }
  for (const e of document.querySelectorAll('main svg')) {
    if (e.getAttribute('aria-hidden') !== 'true' && !(e.getAttribute('aria-label') || e.querySelector('title'))) say(e, 'diagram without a name');
    if (shown(e) && (box(e).right > W + 1 || box(e).left < -1) && !scrolls(e.parentElement)) say(e, 'diagram cut');
    for (const t of e.querySelectorAll('text')) { const a = box(t), b = box(e); if (a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1) say(t, 'text of a diagram cut'); }
  }
  for (const e of document.querySelectorAll('main table, main pre')) if (shown(e) && box(e).right > W + 1 && !scrolls(e)) say(e, `${e.tagName} overflows`);
  for (const e of document.querySelectorAll('main .math')) if (!e.querySelector('.katex')) say(e, 'maths not rendered');
  for (const e of document.querySelectorAll('.katex-error')) say(e, 'maths with an error');
  for (const e of document.querySelectorAll('main div.sourceCode pre')) if (!e.closest('.code-copy-outer-scaffold')?.querySelector('.code-copy-button')) say(e, 'code without a copy button');
  return out }"""


class Ids(HTMLParser):
    "Anchors of a page, and the links that it has"

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
    return {o: Ids((SITE / o).read_text()) for o in PAGES}


@pytest.fixture(scope='module')
def base():
    "The site on a local port"
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=SITE)
    handler.func.log_message = lambda *a: None
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/'
        server.shutdown()


@pytest.fixture(scope='module')
def views(base):
    "A browser tab a view, each with the list of what went wrong in it"
    path = os.environ.get('CHROMIUM') or shutil.which('chromium') or shutil.which('google-chrome')
    if path is None:
        pytest.exit('Chromium is missing: apt-get install chromium, or CHROMIUM=/path/to/it', 1)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=['--no-sandbox'])
        tabs = {}
        for name, how in VIEWS.items():
            context = browser.new_context(**how, permissions=['clipboard-read', 'clipboard-write'])
            tab, faults = context.new_page(), []
            tab.set_default_timeout(120_000)
            tab.on('console', lambda m, f=faults: m.type == 'error' and f.append(f'console: {m.text}'))
            tab.on('pageerror', lambda e, f=faults: f.append(f'error: {e}'))
            tab.on(
                'request',
                lambda r, f=faults: r.url.startswith((base, 'data:', 'blob:')) or f.append(f'outside request: {r.url}'),
            )
            tab.on('response', lambda r, f=faults: r.status < 400 or f.append(f'{r.status}: {r.url}'))
            tabs[name] = tab, faults
        yield tabs
        browser.close()


def visit(tab, url):
    tab.goto(url)
    tab.wait_for_load_state('networkidle')
    tab.evaluate('document.fonts.ready')


def test_the_site_is_built():
    assert len(PAGES) > 10, 'no site in _site/: run `make docs`'


def test_links_and_anchors():
    bad = []
    for page, o in parsed().items():
        bad += [f'{page}: id {i!r} twice' for i in {i for i in o.ids if o.ids.count(i) > 1}]
        for href in o.links:
            if href.startswith(('http:', 'https:', 'mailto:')):
                continue
            to, anchor = urldefrag('index.html' if href == './' else urljoin(page, href))
            if not (SITE / (to := unquote(to) or page)).is_file():
                bad.append(f'{page}: {href} is not there')
            elif anchor and to in parsed() and unquote(anchor) not in parsed()[to].ids:
                bad.append(f'{page}: {href} has no such anchor')
    assert not bad, '\n' + '\n'.join(bad)


def test_every_public_name_has_an_entry():
    names = json.loads((SITE / 'names.json').read_text())
    lost = [k for k, v in names.items() if '#' in v and v.partition('#')[2] not in parsed()[v.partition('#')[0]].ids]
    assert not lost, lost
    assert len(names) > 300


def test_nbdev_prepares_the_same_pages_for_quarto(tmp_path):
    "What `nbdev-docs` hands to Quarto, which is not here: every notebook passes, under the name that it has here, and its links lead to entries that are here"
    copy_checkout(tmp_path)
    (tmp_path / 'nbs/_quarto.yml').symlink_to('../_quarto.yml')
    ran = subprocess.run([Path(sys.executable).parent / 'nbdev-proc-nbs'], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    made = {o.name: read_nb(o).cells for o in (tmp_path / '_proc').glob('*.ipynb')}
    assert made.keys() == {o.name for o in ROOT.glob('nbs/*.ipynb')}
    front = {k: yaml.safe_load(cells[0].source.strip('-\n')) for k, cells in made.items()}
    assert all(o['title'] and o['description'] for o in front.values())
    names = [o['output-file'] for o in front.values()] + [f'{o.stem}.html' for o in ROOT.glob('nbs/*.qmd')]
    assert sorted(names) == PAGES
    links = {
        m.lower()
        for cells in made.values()
        for c in cells
        for m in re.findall(r'\(https://cxrlt-nb.github.io/cxrlt_nb/([^)]+)\)', c.source or '')
    }
    assert links and links <= {
        o.lower() for o in json.loads((SITE / 'names.json').read_text()).values()
    }  # Quarto's anchors are lower case


@pytest.mark.parametrize('page', PAGES)
def test_page(page, base, views):
    bad = []
    for name, (tab, faults) in views.items():
        faults.clear()
        visit(tab, base + page)
        tab.add_script_tag(path=AXE)
        found = tab.evaluate('axe.run(document, {resultTypes: ["violations"]})')['violations']
        serious = [
            f'axe {o["id"]}: {n["html"][:110]}'
            for o in found
            if o['impact'] in ('serious', 'critical')
            for n in o['nodes'][:3]
        ]
        bad += [f'{name}: {o}' for o in [*faults, *tab.evaluate(LOOK), *serious]]
        if SHOTS:
            SHOTS.mkdir(exist_ok=True)
            tab.screenshot(path=SHOTS / f'{page[:-5]}-{name}.png', full_page=os.environ['SHOTS'] == 'full')
    assert not bad, '\n' + '\n'.join(bad)


def test_search_finds_mosaic(base, views):
    tab, faults = views['desktop-light']
    visit(tab, base)
    tab.locator('input[type=search]:visible').fill('Mosaic')
    hits = tab.locator('.smalldocs-search a:visible')
    hits.first.wait_for()
    assert any('augment.html' in h.get_attribute('href') for h in hits.all()[:3])
    next(h for h in hits.all() if 'augment.html' in h.get_attribute('href')).click()
    tab.wait_for_url('**/augment.html*')
    assert 'Mosaic' in tab.inner_text('main')


def test_sidebar_on_a_phone(base, views):
    tab, faults = views['phone-light']
    visit(tab, base)
    side, inside = (
        tab.locator('#quarto-sidebar'),
        'document.querySelector("#quarto-sidebar").getBoundingClientRect().right > 100',
    )
    assert not tab.evaluate(inside)
    tab.locator('.quarto-btn-toggle:visible').first.click()
    tab.wait_for_function(inside)
    link = side.locator('a[href="losses.html"]')
    if not link.is_visible():
        side.get_by_text('Loss and scores').click()
    link.click()
    tab.wait_for_url('**/losses.html')


def test_code_can_be_copied(base, views):
    tab, faults = views['desktop-light']
    visit(tab, base + 'index.html')
    block = tab.locator('.code-copy-outer-scaffold').first
    block.hover()
    block.locator('.code-copy-button').click()
    tab.wait_for_selector('.code-copy-button-checked')
    assert (
        tab.evaluate('navigator.clipboard.readText()').strip() == block.locator('pre code').inner_text().strip() != ''
    )


def test_the_reader_chooses_light_or_dark(base, views):
    tab, faults = views['desktop-light']
    visit(tab, base)
    dark = lambda: tab.evaluate('document.documentElement.classList.contains("quarto-dark")')
    assert not dark()
    tab.locator('.quarto-color-scheme-toggle:visible').first.click()
    tab.wait_for_function('document.documentElement.classList.contains("quarto-dark")')
    visit(tab, base + 'faq.html')
    assert dark()
    tab.evaluate('localStorage.clear()')
