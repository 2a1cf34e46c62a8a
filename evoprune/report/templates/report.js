"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Set();

  function themed(figure, isDark) {
    const ink = isDark ? "#e6eaee" : "#1b1f24";
    const line = isDark ? "#3a424b" : "#d7dde3";
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line };
    const layout = {
      ...figure.layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, family: "system-ui, sans-serif", size: 12 },
      hoverlabel: { font: { family: "ui-monospace, monospace", size: 12 } },
      xaxis: { ...axis, ...figure.layout.xaxis },
      yaxis: { ...axis, ...figure.layout.yaxis },
      barmode: "group",
    };
    const data = figure.data.map((trace) =>
      trace.meta === "ink" ? { ...trace, line: { ...trace.line, color: ink }, marker: { ...trace.marker, color: ink } } : trace
    );
    return [data, layout];
  }

  function draw(id, isDark) {
    const [data, layout] = themed(figures[id], isDark);
    const config = { responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtonsToRemove: ["lasso2d", "select2d"] };
    Plotly.react(id, data, layout, config);
    drawn.add(id);
  }

  // a figure inside a closed <details> has no size yet
  function drawVisible() {
    for (const id of Object.keys(figures)) {
      const place = document.getElementById(id);
      if (!drawn.has(id) && !place.closest("details:not([open])")) draw(id, dark.matches);
    }
  }

  function redraw(isDark) {
    for (const id of drawn) draw(id, isDark);
  }

  function compare(one, other, words) {
    if (words) return one.localeCompare(other);
    const [a, b] = [Number.parseFloat(one), Number.parseFloat(other)];
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return a - b;
  }

  function sortable(table) {
    table.querySelectorAll("thead th").forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const value = (row) => row.cells[column].dataset.value;
        const rows = [...body.rows].sort((a, b) => (down ? -1 : 1) * compare(value(a), value(b), "text" in head.dataset));
        body.append(...rows);
      });
    });
  }

  document.querySelectorAll("table.sortable").forEach(sortable);
  document.querySelectorAll("details").forEach((details) => details.addEventListener("toggle", drawVisible));
  document.querySelectorAll('a[href^="#run"]').forEach((link) =>
    link.addEventListener("click", () => { document.querySelector(link.getAttribute("href")).open = true; })
  );
  dark.addEventListener("change", (event) => redraw(event.matches));

  // in print, everything is open and light
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((details) => { details.open = true; });
    drawVisible();
    redraw(false);
  });
  addEventListener("afterprint", () => {
    closed.forEach((details) => { details.open = false; });
    redraw(dark.matches);
  });

  drawVisible();
  document.documentElement.dataset.ready = "true";
})();
