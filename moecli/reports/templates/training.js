/* How the routing changed: while the model was trained, and from checkpoint to checkpoint. */

function showTraining() {
  if (report.training) showRecord("training-charts", report.training, FIGURES_OF_TRAINING);
  if (report.communication) showRecord("communication-charts", report.communication, FIGURES_OF_COMMUNICATION);
  if (report.checkpoints.length) showCheckpoints();
  if (report.saturation.length) showSaturation();
}

/** A chart for each figure. */
function showRecord(place, record, figures) {
  const hosts = figures.map(([key, name, show]) => {
    const chart = element("div");
    byId(place).append(element("figure", {}, element("figcaption", {}, name), chart));
    return [key, name, show, chart];
  });
  for (const [key, name, show, host] of hosts) {
    const series = [{ name, values: record[key], colour: HUES[4] }];
    keepDrawn(host, () => drawLines(host, { name, xName: "step", x: record.steps, series, show, height: 190 }));
  }
}

const FIGURES_OF_TRAINING = [
  ["load_cv", "CV of load", (value) => fixed(value, 2)],
  ["max_violation", "MaxVio", (value) => fixed(value, 2)],
  ["dropped_fraction", "dropped", percent],
  ["dead_experts", "dead experts", short],
];

const FIGURES_OF_COMMUNICATION = [
  ["communication_bytes", "bytes", bytes],
  ["communication_share", "share of the step", percent],
  ["process_max_violation", "MaxVio of processes", (value) => fixed(value, 2)],
];

/** One figure of all layers, and its mean where that is known, over the checkpoints. */
function showCheckpoints() {
  const host = byId("checkpoint-chart");
  const redraw = keepDrawn(host, () => {
    const [key, name, show] = FIGURES.find(([figure]) => figure === state.checkpointFigure);
    const numbers = [...new Set(report.checkpoints.flatMap((step) => step.layers.map((layer) => layer.layer)))];
    const series = numbers.map((number, place) => ({
      name: `layer ${number}`, colour: layerColour(place, numbers.length),
      values: report.checkpoints.map((step) => step.layers.find((layer) => layer.layer === number)?.[key] ?? null),
    }));
    const mean = {
      name: key === "dead_experts" ? "sum" : "mean", colour: HUES[5], strong: true,
      values: report.checkpoints.map((step) => step.mean[key] ?? null),
    };
    addLineKey(host, series, mean.values.some(isNumber) ? [mean] : []);
    drawLines(host, { name, xName: "step", x: report.checkpoints.map((step) => step.step), series: [...series, mean], show });
  });
  addMenu(byId("checkpoint-controls"), "Figure", "checkpointFigure", FIGURES.slice(1).map(([key, name]) => [key, name]), redraw);
}

function showSaturation() {
  const host = byId("saturation-chart");
  const redraw = keepDrawn(host, () => {
    const layers = report.saturation;
    const found = layers.map((layer, place) => ({
      name: `layer ${layer.layer}`, values: layer[state.saturation], colour: layerColour(place, layers.length),
    }));
    const chance = layers.map((layer) => ({
      name: `chance, layer ${layer.layer}`, values: layer[`${state.saturation}_chance`], colour: "#8a929c", dashed: true,
    }));
    addLineKey(host, found);
    const name = "Share of the final experts that were already chosen";
    drawLines(host, { name, xName: "step", x: layers[0].steps, series: [...chance, ...found], show: percent });
  });
  addMenu(byId("saturation-controls"), "Of", "saturation", [["top_k", "all chosen experts"], ["first", "the first choice"]], redraw);
}
