/* How evenly the experts are loaded. */

const MULTIPLES = { low: 0, high: 2 };
const DEAD_BELOW = 0.01;
const LOAD_KEY = ["multiples of the even share", ["0", "1", "2 or more"], ["× dead: under 1 %"]];

function showLoad() {
  const layerColumns = [
    { name: "layer", show: (value) => (isNumber(value) ? whole(value) : "mean"), value: (row) => row.layer },
    { name: "experts", show: whole, value: (row) => row.num_experts },
  ];
  addTable(byId("figures-table"), {
    name: "Figures of every layer", columns: [...layerColumns, ...figureColumns()], rows: report.layers, footer: report.mean,
  });
  const host = byId("load-map");
  const redraw = keepDrawn(host, () => drawLoad(host, report.layers, state.quantity));
  const options = [["load", "load"]];
  if (report.layers.some((layer) => layer.importance)) options.push(["importance", "importance"]);
  if (report.ablation) options.push(["loss_increase", "loss without the expert"]);
  addMenu(byId("load-controls"), "Show", "quantity", options, redraw);
  showDropped();
}

function drawLoad(host, layers, quantity) {
  if (quantity === "loss_increase") drawAblation(host);
  else {
    addKey(host, ...LOAD_KEY);
    drawHeatmap(host, loadFigure(layers, quantity));
  }
}

/** Layers by experts, in multiples of the even share. */
function loadFigure(layers, quantity) {
  const value = (row, column) => {
    const layer = layers[row];
    if (column >= layer.num_experts) return undefined;
    return multiple(layer[quantity]?.[column], layer.num_experts);
  };
  return {
    name: `${quantity === "load" ? "Load" : "Importance"} of every expert in every layer`,
    rows: layers.map((layer) => String(layer.layer)), rowTitle: "layer",
    columns: Math.max(...layers.map((layer) => layer.num_experts)), columnTitle: "expert",
    scale: MULTIPLES, value, text: (number) => fixed(number, 2), textLength: 4,
    mark: (row, column) => (quantity === "load" && isNumber(value(row, column)) && value(row, column) < DEAD_BELOW ? "cross" : null),
    describe: (row, column) => {
      const layer = layers[row];
      const [load, importance] = [layer.load[column], layer.importance?.[column]];
      const lines = [
        ["load", percent(load)], ["of the even share", times(multiple(load, layer.num_experts))], ["importance", percent(importance)],
      ];
      return { title: `layer ${layer.layer}, expert ${column}`, lines };
    },
  };
}

function showDropped() {
  const layers = report.layers.filter((layer) => layer.dropped_by_position?.some((share) => share > 0));
  if (!layers.length) return;
  byId("dropped").hidden = false;
  const host = byId("dropped-chart");
  const series = layers.map((layer, place) => ({
    name: `layer ${layer.layer}`, values: layer.dropped_by_position, colour: layerColour(place, layers.length),
  }));
  keepDrawn(host, () => {
    addLineKey(host, series);
    drawLines(host, { name: "Dropped share by position", xName: "position", x: report.position_starts, series, show: percent });
  });
}
