/* How choices hang together: which experts run together, which paths tokens take, and whether the next token goes the same way. */

function showStructure() {
  if (report.coactivation.length) showCoactivation();
  if (report.paths) showPaths();
  if (report.consistency.length) showConsistency();
}

function showCoactivation() {
  const host = byId("coactivation-map");
  const redraw = keepDrawn(host, () => drawCoactivation(host, report.coactivation[state.coactivationLayer]));
  addLayerMenu(byId("coactivation-controls"), "coactivationLayer", report.coactivation, redraw);
}

function drawCoactivation(host, layer) {
  const experts = layer.share.length;
  addKey(host, "share over chance", RATIO_TICKS, ["▲ special, above chance", "▼ special, below"]);
  drawHeatmap(host, {
    name: `Experts of layer ${layer.layer} that run together`,
    rows: [...Array(experts).keys()].map(String), rowTitle: "of expert", columns: experts, columnTitle: "also expert",
    scale: RATIOS, squarish: true, missing: "an expert with itself, or not known",
    text: (value) => (value === null ? "" : fixed(value, 1)), textLength: 3,
    value: (row, column) => ratio(layer.share[row][column], layer.chance[row][column]),
    mark: (row, column) => (row === column ? null : specialMark(layer.special[row][column])),
    describe: (row, column) => ({
      title: row === column ? `expert ${row}` : `expert ${row} and expert ${column}`,
      lines: [
        [`of expert ${row}’s tokens`, percent(layer.share[row][column])],
        ["chance", percent(layer.chance[row][column])],
        ["share / chance", times(ratio(layer.share[row][column], layer.chance[row][column]))],
        ["special", row === column ? DASH : specialWords(layer.special[row][column])],
      ],
    }),
  });
}

function showPaths() {
  showFlows();
  const { layers } = report.paths;
  const name = `experts in layers ${layers[0]} to ${layers[layers.length - 1]}`;
  addTable(byId("paths-table"), {
    name: "The most travelled paths",
    columns: [
      { name, wide: layers.length > 12, value: (row) => [...row.experts].join(" → ") },
      { name: "tokens", show: whole, value: (row) => row.count },
      { name: "share", show: percent, value: (row) => row.share },
      { name: "chance", show: percent, value: (row) => row.chance },
      { name: "share / chance", show: times, value: (row) => ratio(row.share, row.chance) },
    ],
    rows: report.paths.top,
  });
}

function showConsistency() {
  const host = byId("consistency-chart");
  const points = report.consistency.map((layer) => ({ layer: layer.layer, value: layer.first, chance: layer.first_chance }));
  keepDrawn(host, () => {
    addIntervalKey(host);
    drawIntervals(host, { name: "Consecutive tokens with the same first choice, by layer", points, show: percent });
  });
  const columns = (key, name) => [
    { name, show: percent, value: (row) => row[key] },
    { name: "chance", show: percent, value: (row) => row[`${key}_chance`]?.mean },
    { name: "from", show: percent, value: (row) => row[`${key}_chance`]?.low, hint: "Low end of the 95 % interval of chance" },
    { name: "to", show: percent, value: (row) => row[`${key}_chance`]?.high, hint: "High end of the 95 % interval of chance" },
  ];
  addTable(byId("consistency-table"), {
    name: "Consecutive tokens",
    columns: [
      { name: "layer", show: whole, value: (row) => row.layer },
      { name: "pairs", show: whole, value: (row) => row.pairs },
      ...columns("first", "same first choice"),
      ...columns("first_or_second", "same first or second"),
    ],
    rows: report.consistency,
  });
}
