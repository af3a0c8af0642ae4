/* What it costs to switch an expert off. */

function showCause() {
  const host = byId("ablation-map");
  keepDrawn(host, () => drawAblation(host));
  const rows = report.ablation.layers.flatMap((layer) =>
    Array.from(layer.loss_increase, (increase, expert) => ({
      layer: layer.layer, expert, increase, load: layer.load[expert], error: layer.standard_error[expert], experts: layer.load.length,
    })),
  );
  addTable(byId("ablation-table"), {
    name: "Loss increase by expert",
    columns: [
      { name: "layer", show: whole, value: (row) => row.layer },
      { name: "expert", show: whole, value: (row) => row.expert },
      { name: "load", show: percent, value: (row) => row.load },
      { name: "of the even share", show: times, value: (row) => multiple(row.load, row.experts) },
      { name: "loss increase", show: difference, value: (row) => row.increase, hint: "Nats per token" },
      { name: "standard error", show: (value) => significant(value, 2), value: (row) => row.error, hint: "Over documents" },
    ],
    rows,
  });
}

/** Layers by experts, by loss increase, on a scale whose middle is no change. */
function drawAblation(host) {
  const { layers } = report.ablation;
  const most = Math.max(...layers.flatMap((layer) => layer.loss_increase.filter(isNumber).map(Math.abs)), 0) || 1;
  const digits = Math.min(12, Math.max(2, 2 - Math.floor(Math.log10(most))));
  addKey(host, "loss increase, nats per token", [difference(-most), "0", difference(most)]);
  drawHeatmap(host, {
    name: "Loss increase without each expert",
    rows: layers.map((layer) => String(layer.layer)), rowTitle: "layer",
    columns: Math.max(...layers.map((layer) => layer.load.length)), columnTitle: "expert",
    scale: { low: -most, high: most }, text: (value) => signed(value, digits), textLength: digits + 3,
    value: (row, column) => layers[row].loss_increase[column],
    describe: (row, column) => ({
      title: `layer ${layers[row].layer}, expert ${column}`,
      lines: [
        ["loss increase", `${difference(layers[row].loss_increase[column])} nats`],
        ["standard error", significant(layers[row].standard_error[column], 2)],
        ["load", percent(layers[row].load[column])],
        ["of the even share", times(multiple(layers[row].load[column], layers[row].load.length))],
      ],
    }),
  });
}
