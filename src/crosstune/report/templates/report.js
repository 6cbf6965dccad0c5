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
      axis: { labelColor: text, titleColor: quiet, titleFontWeight: "normal", gridColor: line, domainColor: line, tickColor: line, labelFontSize: 12, titleFontSize: 12 },
      legend: { labelColor: text, titleColor: quiet, titleFontWeight: "normal", labelFontSize: 12, titleFontSize: 12, symbolStrokeWidth: 2 },
    };
  };
  // "ast" makes Vega interpret its expressions: the page's policy forbids code made from strings.
  const options = () => ({ mode: "vega-lite", ast: true, renderer: "svg", actions: false, defaultStyle: false, config: config(), tooltip: { disableDefaultStyle: true, theme: "page" } });
  let shown = [];
  const draw = async () => {
    shown.forEach((result) => result.finalize());
    shown = [];
    for (const figure of document.querySelectorAll("figure")) {
      const data = figure.querySelector('script[type="application/json"]');
      const place = figure.querySelector(".chart");
      try {
        shown.push(await vegaEmbed(place, JSON.parse(data.textContent), options()));
      } catch (error) {
        place.textContent = "This chart could not be drawn; its numbers are in the tables.";
        console.error(error);
      }
    }
    document.documentElement.dataset.drawn = String(shown.length);
  };
  draw();
  dark.addEventListener("change", draw);

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
})();
