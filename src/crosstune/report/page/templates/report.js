"use strict";
(() => {
  // Charts take the page's colours, and are drawn again when the reader switches between light and dark.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let paper = false; // Drawn to be printed: on light ground, as wide as it needs, without pixels.
  const PAGE = 900; // Height of a printed page, in pixels.
  const config = () => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const [text, quiet, line] = ["--text", "--quiet", "--line"].map(colour);
    return {
      aria: false, // One label a chart (below) and the tables serve a screen reader better than thousands of marks.
      background: "transparent",
      font: getComputedStyle(document.body).fontFamily,
      view: { stroke: null },
      axis: { labelColor: text, titleColor: quiet, titleFontWeight: "normal", gridColor: line, domainColor: line, tickColor: line, labelFontSize: 12, titleFontSize: 12, labelFlush: false },
      title: { color: text },
      legend: { labelColor: text, titleColor: quiet, titleFontWeight: "normal", labelFontSize: 12, titleFontSize: 12, symbolStrokeWidth: 2 },
    };
  };
  // "ast" makes Vega interpret its expressions: the page's policy forbids code made from strings.
  const options = () => ({ mode: "vega-lite", ast: true, renderer: "svg", actions: false, defaultStyle: false, config: config(), tooltip: { disableDefaultStyle: true, theme: "page" } });
  // Charts are drawn when they come near the screen; big ones as pixels, which thousands of marks want.
  const BIG = 1500;
  const drawn = new Map();
  const read = (within) => JSON.parse(within.querySelector('script[type="application/json"]').textContent);
  // What a spec is drawn as: with the colours of dark ground where the page is dark, and of the rows that the
  // section's filter leaves. Rows name their family, script and method; those of a language's axis only itself.
  const onDark = JSON.parse(document.getElementById("on-dark").textContent);
  const replaced = (value, names) => {
    if (typeof value === "string") return names.get(value) ?? value;
    if (Array.isArray(value)) return value.map((item) => replaced(item, names));
    return value && typeof value === "object" ? Object.fromEntries(Object.entries(value).map(([key, item]) => [key, replaced(item, names)])) : value;
  };
  const CUT = "␟";
  const ROW = 20; // Height of a language's row, in pixels.
  const narrowed = (spec, filter) => {
    const sets = Object.entries(spec.datasets);
    const keeps = (row) => (row.family ?? filter.family) === filter.family || !filter.family;
    const fits = (row) => keeps(row) && (!filter.script || (row.script ?? filter.script) === filter.script) && (!filter.every.has(row.method) || filter.methods.has(row.method));
    const families = new Map(); // Of each language shown, by its key.
    for (const [name, rows] of sets) {
      spec.datasets[name] = rows.filter(fits);
      for (const row of spec.datasets[name]) if (row.family !== undefined) families.set(row.language, row.family);
    }
    if (!families.size) return spec;
    // A key ends in the family where one starts: other languages may be the first of theirs now.
    const names = new Map();
    const starts = [];
    let last;
    for (const key of [...families.keys()].sort((a, b) => a.split(CUT)[1] - b.split(CUT)[1])) {
      const first = families.get(key) !== last;
      last = families.get(key);
      names.set(key, [...key.split(CUT).slice(0, 3), first ? last : ""].join(CUT));
      if (first) starts.push({ language: names.get(key) });
    }
    spec = replaced(spec, names);
    for (const [name, rows] of Object.entries(spec.datasets))
      if (rows.length && rows.every((row) => row.language && Object.keys(row).length === 1)) spec.datasets[name] = starts;
    return { ...spec, height: ROW * families.size };
  };
  const filters = new Map(); // Of a section, what its reader picked.
  const size = (spec) => Object.values(spec.datasets ?? {}).reduce((sum, rows) => sum + rows.length, spec.data?.values?.length ?? 0);
  // A forest plot and the table under it show the reference that its reader picked.
  const choose = async (figure) => {
    const picked = figure.closest("[data-compare]")?.querySelector("select").value;
    if (picked !== undefined) await drawn.get(figure)?.view.signal("reference", Number(picked)).runAsync();
  };
  for (const compare of document.querySelectorAll("[data-compare]")) {
    const select = compare.querySelector("select");
    const show = () => {
      compare.querySelectorAll("[data-reference]").forEach((body) => { body.hidden = body.dataset.reference !== select.value; });
      compare.querySelectorAll("figure").forEach(choose);
    };
    compare.querySelector(".controls").hidden = false;
    select.addEventListener("change", show);
    show();
  }
  const draw = async (figure) => {
    const place = figure.querySelector(".chart");
    drawn.get(figure)?.finalize();
    try {
      let spec = read(figure);
      const filter = figure.compareDocumentPosition(figure.closest("section").querySelector("[data-filter]") ?? figure) & Node.DOCUMENT_POSITION_PRECEDING
        && filters.get(figure.closest("section"));
      if (filter && !filter.whole && spec.datasets) {
        spec = narrowed(spec, filter);
        const least = Number(place.dataset.least);
        place.style.minWidth = `${Math.max(300, 210 + ((least - 210) * filter.methods.size) / filter.of)}px`;
      } else place.style.minWidth = `${place.dataset.least}px`;
      const ground = dark.matches && !paper ? "dark" : "light";
      if (ground === "dark") spec = replaced(spec, new Map(Object.entries(onDark)));
      if (paper && spec.width === "container") spec.width = Math.max(place.clientWidth, parseInt(place.style.minWidth));
      const result = await vegaEmbed(place, spec, { ...options(), renderer: size(spec) > BIG && !paper ? "canvas" : "svg" });
      figure.dataset.ground = ground;
      figure.toggleAttribute("data-tall", place.firstElementChild.offsetHeight > PAGE);
      drawn.set(figure, result);
      await choose(figure);
    } catch (error) {
      drawn.delete(figure);
      place.textContent = "This chart could not be drawn; its numbers are in the tables.";
      console.error(error);
    }
    figure.dataset.drawn = "";
    document.documentElement.dataset.drawn = String(drawn.size);
  };
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "600px 0px" });
  document.querySelectorAll("figure").forEach((figure) => near.observe(figure));
  dark.addEventListener("change", () => [...drawn.keys()].forEach(draw));

  // Printed, every chart is there: those that nobody came near are drawn before, and a button waits for them.
  const unread = new Set(); // Predictions that are not shown yet.
  const rest = () => Promise.all([...unread].map((show) => show()).concat([...document.querySelectorAll("figure:not([data-drawn])")].map((figure) => { near.unobserve(figure); return draw(figure); })));
  const setPaper = (on) => {
    paper = on;
    document.documentElement.toggleAttribute("data-paper", on);
  };
  addEventListener("beforeprint", rest);
  addEventListener("afterprint", () => {
    if (!paper) return;
    setPaper(false);
    [...drawn.keys()].forEach(draw);
  });
  for (const button of document.querySelectorAll("[data-print]")) {
    button.closest("li").hidden = false;
    button.addEventListener("click", async () => {
      setPaper(true);
      await Promise.all([rest(), ...[...drawn.keys()].map(draw)]);
      print();
    });
  }

  // A section's filter: which languages and methods its figures and its table of languages show.
  for (const bar of document.querySelectorAll("[data-filter]")) {
    const section = bar.closest("section");
    const table = section.querySelector('table[data-content="languages"]');
    const boxes = [...bar.querySelectorAll('input[type="checkbox"]')];
    const every = new Set(boxes.map((box) => box.value));
    const pick = (by) => bar.querySelector(`[data-by="${by}"]`).value;
    const show = (redraw) => {
      const methods = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
      const filter = { family: pick("family"), script: pick("script"), methods, every, of: boxes.length };
      filter.whole = !filter.family && !filter.script && methods.size === boxes.length;
      filters.set(section, filter);
      bar.querySelector("[data-count]").textContent = `${methods.size} of ${boxes.length}`;
      const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
      let count = 0;
      for (const row of table.rows) {
        const text = (name) => row.cells[heads.indexOf(name)].textContent.trim();
        row.hidden = row.parentNode !== table.tHead && ((filter.family && text("Family") !== filter.family) || (filter.script && text("Script") !== filter.script));
        count += row.parentNode !== table.tHead && !row.hidden;
        heads.forEach((name, column) => { row.cells[column].hidden = every.has(name) && !methods.has(name); });
      }
      bar.querySelector("[data-status]").textContent = `${count} of ${table.tBodies[0].rows.length} languages`;
      if (redraw) for (const figure of section.querySelectorAll("figure[data-drawn]")) if (bar.compareDocumentPosition(figure) & Node.DOCUMENT_POSITION_FOLLOWING) draw(figure);
    };
    bar.hidden = false;
    bar.addEventListener("change", () => show(true));
    for (const [name, on] of [["all", true], ["none", false]])
      bar.querySelector(`[data-${name}]`).addEventListener("click", () => { boxes.forEach((box) => { box.checked = on; }); show(true); });
    show(false);
  }

  // A table that is wider than its place says so.
  const wide = new ResizeObserver((entries) => {
    for (const { target } of entries) target.closest(".scroll").toggleAttribute("data-wide", target.scrollWidth > target.closest(".scroll").clientWidth + 1);
  });
  document.querySelectorAll(".scroll > table").forEach((table) => wide.observe(table));

  // Tables sort by a button in each heading; numbers as numbers, dashes always last.
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = text.replaceAll(",", "").replaceAll("−", "-").match(/-?\d+(\.\d+)?(e-?\d+)?M?/)?.[0];
    if (!row.cells[column].classList.contains("n")) return text === "–" ? null : text;
    return number === undefined ? null : number.endsWith("M") ? 1e6 * number.slice(0, -1) : Number(number);
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const first = heading.classList.contains("n") ? "descending" : "ascending";
        const other = first === "ascending" ? "descending" : "ascending";
        const order = heading.getAttribute("aria-sort") === first ? other : first;
        headings.forEach((one) => one.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        for (const body of table.tBodies) {
          const rows = [...body.querySelectorAll(":scope > tr:not(.head)")].map((row) => [value(row, column), row]);
          rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * compare(a, b)));
          body.append(...rows.map(([, row]) => row));
        }
      });
    });
  }

  // A link to a run opens what it points at.
  const open = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") target.open = true;
  };
  addEventListener("hashchange", open);
  open();

  // Predictions side by side: one language at a time, made of text nodes alone.
  const element = (name, text, attributes = {}) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    for (const [key, given] of Object.entries(attributes)) made.setAttribute(key, given);
    return made;
  };
  const kinds = {
    differ: (scores) => Math.max(...scores) > Math.min(...scores),
    wrong: (scores) => Math.max(...scores) < 100,
    right: (scores) => Math.min(...scores) >= 100,
  };
  const answers = (example, methods, chosen, lang) => {
    const rows = element("tbody");
    for (const i of chosen) {
      if (example.of[i] < 0) continue;
      const text = example.texts[example.of[i]];
      const row = element("tr");
      const cell = element("td", undefined, { class: "wide" });
      cell.append(text ? element("bdi", text, { class: "text", lang, dir: "auto" }) : element("span", "(empty)", { class: "quiet" }));
      row.append(element("th", methods[i], { scope: "row" }), element("td", String(example.scores[i]), { class: "n" }), cell);
      rows.append(row);
    }
    return rows;
  };
  const table = (example, methods, chosen, lang) => {
    const made = element("table");
    const said = element("div", "Example ");
    if (example.prompt) said.prepend(element("bdi", example.prompt, { class: "text prompt", lang, dir: "auto" }));
    said.append(element("bdi", example.id), "; right answer: ", element("bdi", example.gold, { class: "text", lang, dir: "auto" }));
    const caption = element("caption");
    caption.append(said);
    const head = element("tr");
    head.append(element("th", "Method", { scope: "col" }), element("th", "Score", { scope: "col", class: "n" }), element("th", "Answer", { scope: "col" }));
    const top = element("thead");
    top.append(head);
    made.append(caption, top, answers(example, methods, chosen, lang));
    const box = element("div", undefined, { class: "scroll", tabindex: "0", role: "region", "aria-label": `Example ${example.id}` });
    box.append(made);
    return box;
  };
  for (const drill of document.querySelectorAll("[data-drill]")) {
    let data;
    const pick = (name) => drill.querySelector(`[data-pick="${name}"]`).value;
    const show = () => {
      data ??= read(drill);
      const entry = data.languages[Number(pick("language"))];
      const named = [pick("first"), pick("second")];
      const chosen = named[0] === "" ? data.methods.map((_, i) => i) : [...new Set(named.filter((each) => each !== "").map(Number))];
      const fits = kinds[pick("kind")] ?? (() => true);
      const found = entry.examples.filter((example) => {
        const scores = chosen.filter((i) => example.of[i] >= 0).map((i) => example.scores[i]);
        return scores.length > 0 && fits(scores);
      });
      drill.querySelector("[data-examples]").replaceChildren(...found.map((example) => table(example, data.methods, chosen, entry.lang)));
      const { all, differ, wrong, right } = entry.counts;
      drill.querySelector("[data-status]").textContent =
        `${entry.name}: ${found.length} of the ${entry.examples.length} examples here. ` +
        `Of all ${all.toLocaleString("en")} it was asked, methods differ on ${differ.toLocaleString("en")}, ` +
        `score the same below full marks on ${wrong.toLocaleString("en")}, and all are right on ${right.toLocaleString("en")}.`;
    };
    drill.querySelector(".controls").hidden = false;
    drill.querySelectorAll("select").forEach((select) => select.addEventListener("change", show));
    const once = () => { if (unread.delete(once)) show(); };
    unread.add(once);
    new IntersectionObserver((entries, watcher) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watcher.disconnect();
      once();
    }, { rootMargin: "600px 0px" }).observe(drill);
  }
  document.documentElement.dataset.ready = "";
})();
