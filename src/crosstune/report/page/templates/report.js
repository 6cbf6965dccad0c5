"use strict";
(() => {
  // Charts take the page's colours, and are drawn again when the reader switches between light and dark.
  const dark = matchMedia("(prefers-color-scheme: dark)");
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
      const spec = read(figure);
      const result = await vegaEmbed(place, spec, { ...options(), renderer: size(spec) > BIG ? "canvas" : "svg" });
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

  // Tables sort by a button in each heading; numbers as numbers, dashes always last.
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = Number(text.replaceAll(",", "").split(" ")[0]);
    return text === "–" ? null : Number.isNaN(number) ? text : number;
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
        const rows = [...table.tBodies[0].rows].map((row) => [value(row, column), row]);
        rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * compare(a, b)));
        table.tBodies[0].append(...rows.map(([, row]) => row));
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
    new IntersectionObserver((entries, watcher) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watcher.disconnect();
      show();
    }, { rootMargin: "600px 0px" }).observe(drill);
  }
  document.documentElement.dataset.ready = "";
})();
