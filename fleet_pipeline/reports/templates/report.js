"use strict";
// Sorts, filters and opens what the page holds. Nothing is loaded, and without it the page is whole.
(() => {
  const list = document.getElementById("deliberations");
  const items = [...list.children];
  const field = (name) => document.getElementById(name);
  const controls = field("controls");
  const plain = (text) => text.toLowerCase().replace(/\s+/g, " ").trim();
  // Texts are read once, while nobody waits: of a thousand deliberations that takes half a second.
  const texts = new Map();
  const textOf = (one) => texts.get(one) ?? texts.set(one, plain(one.textContent)).get(one);
  const unread = [...items];
  const readOn = (deadline) => {
    while (unread.length && deadline.timeRemaining() > 2) textOf(unread.shift());
    if (unread.length) requestIdleCallback(readOn);
  };

  const choose = (name) => {
    for (const value of [...new Set(items.map((one) => one.dataset[name]))].sort()) {
      field(name).add(new Option(value, value));
    }
  };

  const filter = () => {
    const wanted = plain(field("find").value);
    let shown = 0;
    for (const one of items) {
      const fits =
        ["status", "role"].every((name) => !field(name).value || one.dataset[name] === field(name).value) &&
        (!wanted || textOf(one).includes(wanted));
      one.hidden = !fits;
      shown += fits;
    }
    field("count").value = `${shown.toLocaleString("en")} of ${items.length.toLocaleString("en")}`;
  };

  const number = (one, name) => (one.dataset[name] ? Number(one.dataset[name]) : -Infinity);
  const orders = {
    name: (a, b) => a.id.localeCompare(b.id),
    score: (a, b) => number(b, "score") - number(a, "score"),
    confidence: (a, b) => (number(a, "confidence") === -Infinity) - (number(b, "confidence") === -Infinity) || number(a, "confidence") - number(b, "confidence"),
    tokens: (a, b) => number(b, "tokens") - number(a, "tokens"),
    difference: (a, b) => number(b, "difference") - number(a, "difference"),
    seconds: (a, b) => number(b, "seconds") - number(a, "seconds"),
  };
  const sort = () => {
    const order = orders[field("sort").value];
    list.replaceChildren(...(order ? [...items].sort(order) : items));
  };

  // A link to a deliberation opens it, also where a filter hides it.
  const follow = (hash) => {
    const wanted = document.getElementById(decodeURIComponent(hash.slice(1)));
    if (!wanted || !items.includes(wanted)) return;
    if (wanted.hidden) {
      controls.reset();
      sort();
      filter();
    }
    wanted.open = true;
    wanted.scrollIntoView();
  };

  if (items.length) {
    choose("status");
    choose("role");
    filter();
    controls.hidden = false;
    controls.addEventListener("submit", (event) => event.preventDefault());
    controls.addEventListener("input", (event) => (event.target.id === "sort" ? sort() : filter()));
    window.addEventListener("hashchange", () => follow(location.hash));
    document.addEventListener("click", (event) => {
      const link = event.target.closest("a[href], svg a");
      const hash = link && (link.getAttribute("href") || link.getAttribute("xlink:href") || "");
      if (hash && hash.startsWith("#") && hash === location.hash) follow(hash);
    });
    follow(location.hash);
    if (window.requestIdleCallback) requestIdleCallback(readOn); // not everywhere: then the first search reads them
  }
})();
