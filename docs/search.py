"""The index of the site's search, and the script that ranks what it finds.

smalldocs shows the box and the panel, and asks a class `Fuse` for the hits. Ours, in search.js, finds whole words and
ranks a match in a heading above one in a text, and a page for readers above one about internals.
"""

import html
import json
import re
import shutil
from pathlib import Path

MAX_TEXT = 1500  # characters per section that are searched

#: How much a hit counts, where that is not 1: in a section of the sidebar, and on a page.
SECTIONS = {'Tutorials': 1.1, 'How-to': 1.1, 'Results': 0.9, 'Internals': 0.5}
PAGES = {'faq': 1.4, 'glossary': 0.9, 'changelog': 0.5, 'contributing': 0.5, 'index': 0.8}
PAGE, SECTION, NAME, CONSTANT = 1.3, 1.0, 0.6, 0.3


def kind_of(section):
    "How much a part of a page counts: the page itself, a section, a public name, a constant"
    name, is_api = section['title'], section['title'] == section['id'] and re.fullmatch(r'[\w.]+', section['id'])
    if not section['id']:
        return PAGE
    return SECTION if not is_api else CONSTANT if name.isupper() else NAME


def glossary_terms(text):
    "One part per term of the glossary"
    for term, anchor, rest in re.findall(r'\[\*\*(.+?)\.\*\*\]\{#([\w-]+)\} *(.*)', text):
        yield dict(id=anchor, title=term, text=re.sub(r'\[(.+?)\]\(.*?\)', r'\1', rest).replace('*', ''))


def parts_of(page):
    "The parts of a page that are found one by one; the list of names is one part"
    name, parts = Path(page.out).stem, page.env.get('search', [])
    if name == 'glossary':
        return [dict(parts[0], text=''), *glossary_terms(page.body)]
    return parts[:1] if name == 'api' else parts


def entries(site, section_of):
    for page in site.pages.values():
        weight = SECTIONS.get(section_of[str(page.src)], 1) * PAGES.get(Path(page.out).stem, 1)
        for part in parts_of(page):
            text = html.unescape(re.sub(r'<[^>]+>', ' ', part['text'])).removeprefix('source ')
            is_page = not part['id']
            start = f'{page.meta.get("description", "")}. '.replace('`', '') if is_page else ''
            yield dict(
                href=str(page.out) + ('' if is_page else f'#{part["id"]}'),
                title=page.title,
                section='' if is_page else part['title'],
                text=start + text[:MAX_TEXT],
                weight=round(weight * kind_of(part), 2),
            )


def write_search(site, section_of, out):
    "Write the index as a script, which a page can load from a file system too, and replace smalldocs' search"
    index = json.dumps(list(entries(site, section_of)), ensure_ascii=False)
    (out / 'site_libs/search_index.js').write_text(f'window.searchIndex = {index};\n')
    (out / 'search.json').write_text('[]')  # smalldocs asks for it
    shutil.copy(Path(__file__).with_name('search.js'), out / 'site_libs/fuse/fuse.min.js')
