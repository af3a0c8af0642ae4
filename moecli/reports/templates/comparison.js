/* Several runs side by side. */

function showRuns() {
  const { runs } = report;
  const sizes = (run) => [...new Set(run.layers.map((layer) => layer.num_experts))].join(", ");
  addTable(byId("figures-table"), {
    name: "Figures of every run",
    columns: [
      { name: "run", value: (run) => run.name },
      { name: "text", value: (run) => [run.corpus, run.split].filter(Boolean).join(", ") },
      { name: "tokens", show: whole, value: (run) => run.tokens },
      { name: "loss (nats/token)", show: fixed, value: (run) => run.loss },
      { name: "perplexity", show: (value) => fixed(value, 2), value: (run) => run.perplexity },
      { name: "layers", show: whole, value: (run) => run.layers.length },
      { name: "experts per layer", value: sizes },
      ...figureColumns((run) => run.mean),
    ],
    rows: runs,
  });
  addKey(byId("load-key"), ...LOAD_KEY);
  const drawings = runs.filter((run) => run.layers.length).map(addLoad);
  drawings.forEach(([host, layers]) => keepDrawn(host, () => drawHeatmap(host, loadFigure(layers, "load"))));
}

/** A place for a run's loads. All are there before any is drawn, as it is the number of them that says how wide each one is. */
function addLoad(run) {
  const host = element("div", { class: "figure" });
  byId("load-maps").append(element("figure", {}, element("figcaption", {}, run.name), host));
  return [host, run.layers];
}

showRuns();
