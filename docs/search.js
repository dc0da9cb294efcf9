// Ranks the hits of the site's search. smalldocs shows them; it expects a class called Fuse.
(() => {
  const script = document.currentScript.src;
  const articles = ['a', 'an', 'the', 'of'];
  const wordsOf = text => (text.toLowerCase().match(/[\p{L}\p{N}_]+/gu) ?? []).filter(o => !articles.includes(o));
  const stem = word => word.length > 3 ? word.replace(/s$/, '') : word;

  // 1: the word itself, .6: a word that begins with it, 0: neither
  const fit = (words, word) =>
    words.includes(word) ? 1 : words.some(o => o.startsWith(word)) ? .6 : 0;

  const prepare = entry => ({
    entry,
    page: wordsOf(entry.title).map(stem),
    heading: wordsOf(entry.section || entry.title).map(stem),
    text: wordsOf(entry.text).map(stem),
  });

  // `all`: whether every word must be found
  const score = ({ entry, page, heading, text }, query, all) => {
    let sum = 0, inHeading = 0;
    for (const word of query) {
      const h = fit(heading, word), best = Math.max(8 * h, 4 * fit(page, word), 2 * fit(text, word));
      if (!best && all) return 0;
      sum += best;
      inHeading += h;
    }
    return (sum / query.length + 4 * inHeading / heading.length) * entry.weight;
  };

  let prepared = null;
  window.Fuse = class {
    search(text, { limit }) {
      const query = wordsOf(text).map(stem);
      if (!window.searchIndex || !query.length) return [];
      prepared ??= window.searchIndex.map(prepare);
      const isName = entry => entry.section === text.trim();  // a public name, written as in the code, comes first
      const find = all => prepared
        .map(o => ({ item: o.entry, score: score(o, query, all) * (isName(o.entry) ? 5 : 1) }))
        .filter(o => o.score);
      let hits = find(true);
      if (!hits.length) hits = find(false);
      return hits.sort((a, b) => b.score - a.score).slice(0, limit);
    }
  };

  // Load the index when it is needed for the first time: as a script, because a page in a file system may not fetch.
  let asked = false;
  document.addEventListener('focusin', event => {
    if (asked || !event.target.closest('.smalldocs-search')) return;
    asked = true;
    const index = document.createElement('script');
    index.src = new URL('../search_index.js', script);
    index.onload = () => event.target.dispatchEvent(new Event('input'));
    document.head.append(index);
  });
})();
